"""Flags that several commands share, and how their text becomes options of the API."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from tilingseg.job import RunOptions

    Command = Callable[..., None]


def _parse_box(_context: click.Context, _option: click.Parameter, text: str | None) -> Any:
    if text is None:
        return None
    try:
        box = tuple(float(part) for part in text.split(","))
    except ValueError:
        box = ()
    if len(box) != 4:
        raise click.BadParameter(f"{text!r} is not minx,miny,maxx,maxy")
    return box


def parse_list(_context: click.Context, _option: click.Parameter, text: str | None) -> Any:
    """Split `a,b` at its commas; for click."""
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def parse_bands(_context: click.Context, _option: click.Parameter, text: str | None) -> Any:
    """Read `1,2,3` as band numbers; for click."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of band numbers such as 1,2,3") from None


def _parse_selectors(
    _context: click.Context, _option: click.Parameter, texts: tuple[str, ...]
) -> Any:
    selectors = []
    for text in texts:
        axis, _, index = text.partition("=")
        try:
            selectors.append((axis, int(index)))
        except ValueError:
            raise click.BadParameter(f"{text!r} is not an axis and an index, such as t=0") from None
    return tuple(selectors)


def parse_thresholds(
    _context: click.Context, _option: click.Parameter, texts: tuple[str, ...]
) -> Any:
    """Read `0.5` and `road=0.4` as (class or None, probability) pairs; for click."""
    thresholds = []
    for text in texts:
        name, sign, value = text.rpartition("=")
        try:
            thresholds.append((name if sign else None, float(value)))
        except ValueError:
            raise click.BadParameter(f"{text!r} is neither 0.5 nor road=0.4") from None
    return tuple(thresholds)


def _together(*options: Any) -> Callable[[Command], Command]:
    """Bundle options that several commands share."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


data_option = click.option(
    "--data",
    type=click.Path(path_type=Path),
    envvar="TILINGSEG_DATA",
    show_envvar=True,
    metavar="FOLDER",
    help="What paths in the recipe are relative to; the recipe's folder where neither this flag "
    "nor the variable names one.",
)

split_option = click.option(
    "--split",
    type=click.Choice(["validation", "test", "train"]),
    default="validation",
    help="Sources of the recipe to measure on.",
)

tta_option = click.option(
    "--tta", is_flag=True, help="Average over eight orientations: eight times the work."
)


def _folder_here(text: str) -> Path:
    """Take a folder of this machine."""
    if "://" in text:
        raise click.BadParameter(f"{text} is no folder of this machine, and it must be one")
    return Path(text)


def folder_option(holds: str, default: str) -> Callable[[Command], Command]:
    """Return the option for the folder of what a job by a recipe leaves."""
    return click.option(
        "-o",
        "--out",
        type=_folder_here,
        metavar="FOLDER",
        help=f"Folder of {holds}. [default: NAME_{default}]",
    )


regularize_option = click.option(
    "--regularize",
    type=click.Choice(["off", "auto", "strict"]),
    default="auto",
    help="Walls of building footprints. off: traced outlines without the steps of pixels; auto: "
    "right angles, and diagonals and ovals where the outline asks for them; strict: right angles, "
    "or the outline where they do not fit.",
)

engine_options = _together(
    click.option(
        "--device",
        default="auto",
        metavar="NAME[,NAME]",
        help="auto, cpu, cuda, cuda:1, mps; several share the scene.",
    ),
    click.option(
        "--engine",
        type=click.Choice(["auto", "torch", "torch-compile", "onnx", "openvino"]),
        default="auto",
        help="What runs the network; auto: torch, unless another one needs less than 0.6 of its "
        "time and agrees with it.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "fp16", "bf16", "int8"]),
        default="auto",
        help="Arithmetic of the network; auto: bf16 or fp16 on a GPU, fp32 elsewhere.",
    ),
)

scene_options = _together(
    click.option(
        "--model",
        "models",
        multiple=True,
        default=("buildings-roads",),
        metavar="NAME|FILE",
        help="Model to use; several are averaged.",
    ),
    tta_option,
    click.option(
        "--torchscript",
        is_flag=True,
        help="Accept a TorchScript file as model: the code in it is run.",
    ),
    click.option("--model-sha256", metavar="HEX", help="Refuse a model file with another hash."),
    click.option(
        "--bands",
        callback=parse_bands,
        metavar="1,2,3",
        help="Bands in the model's order. [default: matched by name, else the first ones]",
    ),
    click.option(
        "--gsd",
        type=float,
        metavar="METRES",
        help="Pixel size that the network sees, on the ground. [default: the model's]",
    ),
    click.option(
        "--pixel-size",
        type=float,
        metavar="METRES",
        help="Pixel size of a scene that does not say its own.",
    ),
    click.option(
        "--select",
        "selectors",
        multiple=True,
        callback=_parse_selectors,
        metavar="AXIS=INDEX",
        help="Index along another axis of a Zarr array, such as t=0; may repeat.",
    ),
    click.option(
        "--bbox",
        callback=_parse_box,
        metavar="MINX,MINY,MAXX,MAXY",
        help="Area of interest in the scene's CRS; pixels of the file where it has none.",
    ),
    click.option(
        "--aoi",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Area of interest: polygons of a vector file in any CRS.",
    ),
    click.option(
        "--classes", callback=parse_list, metavar="A,B", help="Classes to keep. [default: all]"
    ),
    click.option(
        "--threshold",
        "thresholds",
        multiple=True,
        callback=parse_thresholds,
        metavar="P|CLASS=P",
        help="Least probability; may repeat. [default: the model's]",
    ),
    engine_options,
    click.option(
        "--tile-size",
        type=click.IntRange(1),
        metavar="PX",
        help="Side of a tile. [default: what costs least]",
    ),
    click.option(
        "--overlap",
        type=click.IntRange(0),
        metavar="PX",
        help="Pixels that neighbouring tiles share. [default: what the network needs]",
    ),
    click.option(
        "--blend",
        type=click.Choice(["auto", "exact", "hann"]),
        default="auto",
        help="How tiles become one: exact cores, or blended where the network needs it.",
    ),
    click.option(
        "--batch-size",
        type=click.IntRange(1),
        metavar="N",
        help="Tiles in one forward pass. [default: what fits]",
    ),
    click.option(
        "--workers",
        type=click.IntRange(1),
        metavar="N",
        help="Threads that read, for each device. [default: 2, with a GPU up to 8]",
    ),
)


def run_options(wishes: dict[str, Any]) -> RunOptions:
    """Turn the parsed flags of `scene_options` into options of the API."""
    from tilingseg.job import RunOptions
    from tilingseg.tiling import TilingOptions

    return RunOptions(
        model=wishes["models"][0],
        further_models=wishes["models"][1:],
        torchscript=wishes["torchscript"],
        tta=wishes["tta"],
        model_sha256=wishes["model_sha256"],
        bands=wishes["bands"],
        gsd_m=wishes["gsd"],
        pixel_m=wishes["pixel_size"],
        selectors=wishes["selectors"],
        box=wishes["bbox"],
        area_file=wishes["aoi"],
        classes=wishes["classes"],
        thresholds=wishes["thresholds"],
        tiling=TilingOptions(
            tile_size_px=wishes["tile_size"],
            overlap_px=wishes["overlap"],
            blend=wishes["blend"],
            batch_size=wishes["batch_size"],
        ),
        device=wishes["device"],
        precision=wishes["precision"],
        engine=wishes["engine"],
        workers=wishes["workers"],
    )
