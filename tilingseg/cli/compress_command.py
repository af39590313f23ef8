"""`tilingseg compress`: smaller and faster forms of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tilingseg.cli.options import data_option, folder_option, split_option
from tilingseg.cli.printing import Bars


@click.command()
@click.argument("model")
@click.argument("recipe", type=click.Path(path_type=Path))
@data_option
@folder_option("models, exports and table", "compression")
@click.option(
    "--prune",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    help="Share of the weights to remove as whole channels.",
)
@click.option(
    "--steps", type=click.IntRange(1), default=300, help="Steps of fine-tuning after pruning."
)
@click.option(
    "--windows",
    "n_batches",
    type=click.IntRange(1),
    default=12,
    help="Batches of training windows that int8 is calibrated on.",
)
@split_option
@click.option(
    "--iou/--no-iou",
    "measure_iou",
    default=True,
    help="Run every form over the held-out areas, or write the forms alone.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors and the table.")
def compress(model: str, recipe: Path, data: Path | None, out: Path | None, **wishes: Any) -> None:
    """Quantise MODEL to int8, prune it on request, export all forms, and measure them.

    RECIPE is the one that MODEL was trained by: int8 is calibrated and pruned channels are
    fine-tuned on its training areas, IoU is measured on its held-out ones by whole runs. int8 needs
    the extra openvino or onnx.
    """
    from tilingseg.compress import CompressOptions, compression_table
    from tilingseg.compress import compress as make_forms
    from tilingseg.training.recipe import read_recipe

    job = read_recipe(recipe)
    options = CompressOptions(
        prune=wishes["prune"],
        steps=wishes["steps"],
        n_batches=wishes["n_batches"],
        split=wishes["split"],
        measure_iou=wishes["measure_iou"],
    )
    bars = Bars(quiet=wishes["quiet"])
    try:
        forms = make_forms(
            model,
            job,
            data or recipe.parent,
            out or Path(f"{job.name}_compression"),
            options=options,
            progress=bars,
        )
    finally:
        bars.close()
    click.echo(compression_table(forms), nl=False)
