"""How a model bears other imagery: `python pipelines/robustness.py MODEL recipe.toml --data DIR`.

Shows the network the held-out areas of a recipe as coarser sensors, other pixel sizes, light and
colours would have them, and prints one table: IoU at the model's thresholds, the mean of the
regions. It is the network that is measured here, not a whole run: what counts is the difference to
the first row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
import torch
import torch.nn.functional as F

from tilingseg.errors import TilingSegError, TrainingError
from tilingseg.model.load import load_model
from tilingseg.training.recipe import read_recipe
from tilingseg.training.samples import unit_scaling, unit_values
from tilingseg.training.sources import LabelledRaster, load_sources
from tilingseg.training.validate import validate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilingseg.model.load import LoadedModel
    from tilingseg.training.recipe import TrainingRecipe

Change = Callable[[LabelledRaster], LabelledRaster]
_LEAST_COARSER = 1.05
"""A sensor whose pixels are larger than a raster's by less than this would show the same."""


@click.command()
@click.argument("model")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder of the data.")
@click.option("--rasters", type=click.IntRange(min=1), help="Rasters of each source; default: all.")
@click.option("--threads", type=click.IntRange(min=1), help="Processor threads; default: all.")
def main(model: str, recipe: Path, data: Path, rasters: int | None, threads: int | None) -> None:
    """Measure MODEL on the held-out areas of RECIPE under other pixel sizes and colours."""
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        loaded, job = load_model(model), read_recipe(recipe)
        if loaded.spec.classes != job.classes:
            raise TrainingError(
                f"the recipe's classes are {', '.join(job.classes)}, the model's "
                f"{', '.join(loaded.spec.classes)}"
            )
        click.echo(_table(loaded, _thinned(load_sources(job, data, "validation"), rasters), job))
    except TilingSegError as error:
        raise click.ClickException(str(error)) from error


def changes(n_bands: int) -> dict[str, Change]:
    """Return what is done to the rasters, by the name of its row."""
    tint = np.linspace(0.9, 1.1, n_bands, dtype=np.float32)[:, None, None]
    return {
        "as it is": lambda raster: raster,
        "from a sensor of 0.7 m": lambda raster: _coarser(raster, 0.7),
        "from a sensor of 1 m": lambda raster: _coarser(raster, 1.0),
        "everything 1.4 × larger": lambda raster: _magnified(raster, 1.4),
        "everything 0.7 × smaller": lambda raster: _magnified(raster, 0.7),
        "gamma 0.7": lambda raster: _shown(raster, lambda unit: unit**0.7),
        "gamma 1.4": lambda raster: _shown(raster, lambda unit: unit**1.4),
        "darker, 0.7 ×": lambda raster: _shown(raster, lambda unit: unit * 0.7),
        "last bands stronger": lambda raster: _shown(raster, lambda unit: unit * tint),
        "first bands stronger": lambda raster: _shown(raster, lambda unit: unit * tint[::-1]),
        "without colour": lambda raster: _shown(raster, _grey),
    }


def _table(model: LoadedModel, rasters: tuple[LabelledRaster, ...], job: TrainingRecipe) -> str:
    limits = dict(zip(model.spec.classes, model.spec.thresholds, strict=True))
    lines = [f"| imagery | {' | '.join(limits)} |\n", "|---" * (1 + len(limits)) + "|\n"]
    for name, change in changes(len(job.bands)).items():
        changed = tuple(change(raster) for raster in rasters)
        scores = validate(model.module, model.geometry, model.spec, changed)
        found = {
            kind: [score.iou_at(limit) for score in scores if score.class_name == kind]
            for kind, limit in limits.items()
        }
        means = (f"{np.mean(values):.3f}" if values else "–" for values in found.values())
        lines.append(f"| {name} | {' | '.join(means)} |\n")
    return "".join(lines)


def _thinned(rasters: tuple[LabelledRaster, ...], most: int | None) -> tuple[LabelledRaster, ...]:
    """Keep some rasters of each source, evenly from its list."""
    kept: list[LabelledRaster] = []
    for source in dict.fromkeys(raster.source for raster in rasters):
        own = [raster for raster in rasters if raster.source == source]
        kept += own[:: max(1, -(-len(own) // most))] if most else own
    return tuple(kept)


def _shown(
    raster: LabelledRaster, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> LabelledRaster:
    """Change the values of a raster, float32 (bands, height, width) in 0…1."""
    unit = np.clip(change(unit_values(raster, slice(None), slice(None))), 0, 1)
    return dataclasses.replace(raster, pixels=unit, scaling=unit_scaling(len(unit)))


def _grey(unit: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.repeat(unit.mean(axis=0, keepdims=True), len(unit), axis=0)


def _coarser(raster: LabelledRaster, gsd_m: float) -> LabelledRaster:
    """Return a raster as a sensor of larger pixels sees it, on its own grid."""
    if gsd_m < _LEAST_COARSER * raster.gsd_m:
        return raster
    height, width = raster.valid.shape
    fewer = [max(1, round(side * raster.gsd_m / gsd_m)) for side in (height, width)]

    def blurred(unit: NDArray[np.float32]) -> NDArray[np.float32]:
        seen = F.interpolate(torch.from_numpy(unit)[None], fewer, mode="area")
        back = F.interpolate(seen, (height, width), mode="bilinear", align_corners=False)
        return np.asarray(back[0].numpy())

    return _shown(raster, blurred)


def _magnified(raster: LabelledRaster, factor: float) -> LabelledRaster:
    """Return a raster whose file is wrong about its pixel size, so that all looks larger."""
    return dataclasses.replace(raster, gsd_m=raster.gsd_m * factor)


if __name__ == "__main__":
    main()
