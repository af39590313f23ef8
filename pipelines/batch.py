"""Run a batch from a recipe: `python pipelines/batch.py recipe.toml`.

A recipe holds the scenes and the flags of `tilingseg batch` under their long names, so that a
nightly job is one file that can be reviewed and repeated. Flags after the recipe win over it:
`--dry-run`, `--limit 10`, `--retry-failed`. Paths in a recipe are relative to it.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

import click

from tilingseg.cli import main as command_line
from tilingseg.cli.cluster_commands import batch
from tilingseg.places import absolute

IN_RECIPE_FOLDER = ("out", "aoi")
"""Flags whose values are paths."""


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]})
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("flags", nargs=-1, type=click.UNPROCESSED)
def main(recipe: Path, flags: tuple[str, ...]) -> None:
    """Run a batch from a TOML recipe; further FLAGS are those of `tilingseg batch`."""
    own, scenes = arguments_of(recipe)
    sys.argv = ["tilingseg", "batch", *own, *flags, "--", *scenes]
    command_line()


def arguments_of(recipe: Path) -> tuple[list[str], list[str]]:
    """Turn a recipe into the flags of `tilingseg batch`, and its scenes.

    Args:
        recipe: TOML with `scenes`, a list, and flags.

    Raises:
        ClickException: the file cannot be read, or a key or value is none of a flag.
    """
    try:
        raw = tomllib.loads(recipe.read_text(encoding="utf-8"))
    except OSError as error:
        raise click.ClickException(f"recipe {recipe} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise click.ClickException(f"recipe {recipe} is not TOML: {error}") from error
    scenes = raw.pop("scenes", None)
    if not isinstance(scenes, list) or not scenes:
        raise click.ClickException(f"{recipe}: scenes must be a list of paths, URLs or patterns")
    flags = {
        name.removeprefix("--"): (parameter, name)
        for parameter in batch.params
        if isinstance(parameter, click.Option)
        for name in (*parameter.opts, *parameter.secondary_opts)
        if name.startswith("--")
    }
    arguments: list[str] = []
    for key, value in raw.items():
        if key not in flags:
            known = ", ".join(("scenes", *sorted(flags)))
            raise click.ClickException(f"{recipe}: unknown key {key!r}; known: {known}")
        arguments += _flag(*flags[key], _placed(key, value, recipe.parent), f"{recipe}: {key}")
    return arguments, [_beside(str(scene), recipe.parent) for scene in scenes]


def _flag(option: click.Option, name: str, value: Any, where: str) -> list[str]:
    if option.is_flag:
        if not isinstance(value, bool):
            raise click.ClickException(f"{where} is {value!r}, must be true or false")
        return [name] if value else []
    if isinstance(value, bool) or not isinstance(value, (str, int, float, list)):
        raise click.ClickException(f"{where} is {value!r}, must be a text, a number or a list")
    if not isinstance(value, list):
        return [name, str(value)]
    if option.multiple:
        return [text for item in value for text in (name, str(item))]
    return [name, ",".join(map(str, value))]


def _placed(key: str, value: Any, folder: Path) -> Any:
    is_file = key in ("cluster", "model") and str(value).endswith((".toml", ".safetensors"))
    return _beside(str(value), folder) if is_file or key in IN_RECIPE_FOLDER else value


def _beside(path: str, folder: Path) -> str:
    return path if "://" in path else absolute(path, folder)


if __name__ == "__main__":
    main()
