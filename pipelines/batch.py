"""Run a batch from a recipe: `python pipelines/batch.py recipe.toml`.

A recipe holds the scenes and the flags of `tilingseg batch` under their long names, so that a
nightly job is one file that can be reviewed and repeated. A flag after the recipe takes the place
of what the recipe says under its name: `--dry-run`, `--limit 10`, `--model other.safetensors`.
Paths in a recipe are relative to it, those of flags to the current folder.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from tilingseg.cli import main as command_line
from tilingseg.cli.cluster_commands import batch
from tilingseg.places import absolute

ONE_TEXT = ("out", "aoi", "cluster")
"""Flags whose value is a path, or may be one, and never a list."""


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]})
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("flags", nargs=-1, type=click.UNPROCESSED)
def main(recipe: Path, flags: tuple[str, ...]) -> None:
    """Run a batch from a TOML recipe; further FLAGS are those of `tilingseg batch`."""
    own, scenes = arguments_of(recipe, flags)
    sys.argv = ["tilingseg", "batch", *own, *flags, "--", *scenes]
    command_line()


def arguments_of(recipe: Path, flags: tuple[str, ...] = ()) -> tuple[list[str], list[str]]:
    """Turn a recipe into the flags of `tilingseg batch`, and its scenes.

    Args:
        recipe: TOML with `scenes`, a list, and flags.
        flags: further ones; what they say is left out of the recipe's.

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
    options = {
        name.removeprefix("--"): (parameter, name)
        for parameter in batch.params
        if isinstance(parameter, click.Option)
        for name in (*parameter.opts, *parameter.secondary_opts)
        if name.startswith("--")
    }
    arguments, told = [], _told(flags)
    for key, value in raw.items():
        if key not in options:
            known = ", ".join(("scenes", *sorted(options)))
            raise click.ClickException(f"{recipe}: unknown key {key!r}; known: {known}")
        option, name = options[key]
        _refuse_other_kinds(option, key, value, f"{recipe}: {key}")
        if option.name not in told:
            arguments += _spelled(option, name, _placed(key, value, recipe.parent))
    return arguments, [_beside(str(scene), recipe.parent) for scene in scenes]


def _told(flags: tuple[str, ...]) -> set[str | None]:
    """Return the names of the options that flags give; what is wrong with them `batch` will say."""
    context = batch.make_context("batch", list(flags), resilient_parsing=True)
    return {
        option.name
        for option in batch.params
        if context.get_parameter_source(str(option.name)) is ParameterSource.COMMANDLINE
    }


def _refuse_other_kinds(option: click.Option, key: str, value: Any, where: str) -> None:
    if option.is_flag:
        if not isinstance(value, bool):
            raise click.ClickException(f"{where} is {value!r}, must be true or false")
        return
    if key in ONE_TEXT and not isinstance(value, str):
        raise click.ClickException(f"{where} is {value!r}, must be one text")
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, bool) or not isinstance(item, (str, int, float)):
            raise click.ClickException(f"{where} is {value!r}, must be a text, a number or a list")


def _spelled(option: click.Option, name: str, value: Any) -> list[str]:
    if option.is_flag:
        if not option.secondary_opts:
            return [name] if value else []
        is_yes = value == (name in option.opts)  # `no-resume = false` resumes
        return [option.opts[0] if is_yes else option.secondary_opts[0]]
    if not isinstance(value, list):
        return [name, str(value)]
    if option.multiple:
        return [text for item in value for text in (name, str(item))]
    return [name, ",".join(map(str, value))]


def _placed(key: str, value: Any, folder: Path) -> Any:
    if isinstance(value, list):
        return [_placed(key, item, folder) for item in value]
    return _beside(str(value), folder) if _is_path(key, str(value)) else value


def _is_path(key: str, text: str) -> bool:
    if key == "model":
        from tilingseg.model.load import available_models  # with torch; --help must not wait

        return text not in available_models()
    return key in ("out", "aoi") or (key == "cluster" and text.endswith(".toml"))


def _beside(path: str, folder: Path) -> str:
    return path if "://" in path else absolute(path, folder)


if __name__ == "__main__":
    main()
