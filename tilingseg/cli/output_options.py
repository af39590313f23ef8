"""Flags that say what is written, for the commands that do whole scenes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from tilingseg.cli.options import parse_list, regularize_option

if TYPE_CHECKING:
    from collections.abc import Callable

    from tilingseg.output_folder import OutputOptions

    Command = Callable[..., None]


def output_flags(command: Command) -> Command:
    """Add the flags to a command."""
    for option in (
        regularize_option,
        click.option(
            "--probability", is_flag=True, help="Keep the probabilities too, uint8, 255 = 1."
        ),
        click.option(
            "--formats",
            callback=parse_list,
            default="cog,geojson",
            metavar="A,B",
            help="Outputs: cog, zarr (masks); geojson, geojsonseq, gpkg, fgb, parquet (vectors).",
        ),
    ):
        command = option(command)
    return command


def output_options(wishes: dict[str, Any]) -> OutputOptions:
    """Turn the parsed flags into options of the API."""
    from tilingseg.output_folder import OutputOptions
    from tilingseg.vectorize.layers import VectorOptions

    return OutputOptions(
        formats=wishes["formats"],
        probability=wishes["probability"],
        vectors=VectorOptions(regularize=wishes["regularize"]),
    )
