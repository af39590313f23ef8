"""The labels of one raster on its grid, whatever they are stored as: mask rasters or vector files.

Vectors are rasterised at the grid that the model sees, not before: the same file serves every pixel
size. Labels that lie elsewhere, in a CRS that nobody can bring to the raster's, or that say nothing
at all, are refused here; they would otherwise be learnt as "nothing is there".
"""

from __future__ import annotations

import math
import warnings
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.features import rasterize
from rasterio.io import MemoryFile
from rasterio.warp import reproject

from tilingseg.errors import TrainingError
from tilingseg.grid import Window
from tilingseg.training.losses import UNKNOWN
from tilingseg.training.vectors import vector_labels

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from rasterio.io import DatasetReader
    from shapely.geometry.base import BaseGeometry

    from tilingseg.records import Scene
    from tilingseg.training.recipe import SourceRecipe, TrainingRecipe

_SILENT = -1
"""Value of a mask where it says nothing: every byte may stand for a class."""


def read_labels(
    scene: Scene,
    recipe: TrainingRecipe,
    source: SourceRecipe,
    folder: Path,
    stars: tuple[str, ...],
) -> NDArray[np.uint8]:
    """Read the labels of one raster, whatever they are stored as.

    Args:
        scene: the grid to bring them to.
        recipe: its classes, in their order.
        source: says where the labels are.
        folder: what the recipe's paths are relative to.
        stars: what the stars of the pattern stand for in this raster's name.

    Returns:
        uint8 (classes, height, width): 0, 1 or `UNKNOWN`.

    Raises:
        TrainingError: they cannot be read or do not fit the raster.
    """
    values = None
    if source.mask is not None:
        values = _read_mask(folder / source.mask.format(*stars), scene, source)
    outside = np.zeros((scene.height, scene.width), np.bool_)
    if source.labelled is not None:
        area = vector_labels(folder / source.labelled.format(*stars), scene)
        outside = _burn(area, scene) == 0
    labels = np.full((len(recipe.classes), scene.height, scene.width), UNKNOWN, np.uint8)
    for label in source.classes:
        if label.vectors is not None:
            path = folder / label.vectors.format(*stars)
            positive = _burn(vector_labels(path, scene, label.width_m), scene) == 1
        else:
            assert values is not None
            positive = np.isin(values, label.values or ())
        silent = outside
        if values is not None:
            silent = outside | np.isin(values, (_SILENT, *label.unlabelled))
        labels[recipe.classes.index(label.name)] = np.where(silent, UNKNOWN, positive)
    return labels


def _read_mask(path: Path, scene: Scene, source: SourceRecipe) -> NDArray[np.int32]:
    """Return the mask's values on the scene's grid; `_SILENT` where it says nothing."""
    shape = (scene.height, scene.width)
    try:
        with (
            warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning),
            rasterio.open(path) as stored,
            _decided(path, stored, source) as dataset,
        ):
            if scene.georef.crs is None or dataset.crs is None:
                values = dataset.read(1, out_shape=shape, resampling=Resampling.mode)
                stretch = dataset.width * scene.height / (dataset.height * scene.width)
                if not math.isclose(stretch, 1, rel_tol=0.01):
                    raise TrainingError(
                        f"{path} has {dataset.height} × {dataset.width} px, which does not fit "
                        f"{scene.name} of {scene.height} × {scene.width} px"
                    )
            else:
                values = np.full(shape, _SILENT, np.int32)
                reproject(
                    rasterio.band(dataset, 1),
                    values,
                    src_transform=dataset.transform,
                    src_crs=dataset.crs,
                    dst_transform=rasterio.Affine(*scene.georef.transform),
                    dst_crs=scene.georef.crs,
                    dst_nodata=_SILENT,
                    init_dest_nodata=True,
                    resampling=Resampling.mode,
                )
    except RasterioError as error:
        raise TrainingError(f"mask {path} cannot be read: {error}") from error
    result = np.asarray(values, np.int32)
    if (result == _SILENT).all():
        raise TrainingError(
            f"mask {path} does not overlap {scene.name}: it covers none of its pixels"
        )
    result[np.isin(result, source.silent_values)] = _SILENT
    return result


@contextmanager
def _decided(path: Path, stored: DatasetReader, source: SourceRecipe) -> Iterator[DatasetReader]:
    """Yield a mask whose nodata says the same as the recipe, or a copy without nodata.

    Resampling leaves nodata out of the vote, but what the recipe says of a value goes before.
    """
    _refuse_undecided_nodata(path, stored, source)
    if source.unlabelled is None or _whole_nodata(stored) is None:
        yield stored
        return
    keys = ("height", "width", "crs", "transform")
    profile = {key: stored.profile[key] for key in keys} | {"dtype": stored.dtypes[0], "count": 1}
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", **profile) as copy:
            copy.write(stored.read(1), 1)
        with memory.open() as copy:
            yield copy


def _refuse_undecided_nodata(path: Path, dataset: DatasetReader, source: SourceRecipe) -> None:
    """Refuse pixels that the file calls nodata while the recipe says nothing of their value.

    Programs write 0 as nodata for "no label" and for "background" alike.
    """
    nodata, silent = _whole_nodata(dataset), source.silent_values
    if source.unlabelled is not None or nodata is None or nodata in silent:
        return
    windows = (window for _, window in dataset.block_windows(1))
    if any((dataset.read(1, window=window) == nodata).any() for window in windows):
        raise TrainingError(
            f"mask {path} calls its value {nodata} nodata: give source {source.name!r} "
            f"unlabelled = {sorted({*silent, nodata})} if nobody labelled those pixels, or "
            f"unlabelled = {list(silent)} if they are background or a class"
        )


def _whole_nodata(dataset: DatasetReader) -> int | None:
    """Return the nodata value of a mask where a recipe could name it."""
    value = dataset.nodata
    named = value is not None and abs(value) < 2**31 and value % 1 == 0
    return int(value) if named else None


def _burn(shapes: list[BaseGeometry], scene: Scene) -> NDArray[np.uint8]:
    """Return 1 where a polygon covers a pixel's centre, 0 elsewhere."""
    shape = (scene.height, scene.width)
    if not shapes:
        return np.zeros(shape, np.uint8)
    burnt = rasterize(
        shapes, out_shape=shape, transform=rasterio.Affine(*scene.georef.transform), dtype="uint8"
    )
    return np.asarray(burnt, np.uint8)


def labelled_part(labels: NDArray[np.uint8], source: SourceRecipe, path: Path) -> Window:
    """Return the rectangle around all labels, cut to the rows that the recipe asks for.

    Raises:
        TrainingError: nothing is labelled.
    """
    known = (labels != UNKNOWN).any(axis=0)
    rows, cols = np.flatnonzero(known.any(axis=1)), np.flatnonzero(known.any(axis=0))
    if not len(rows):
        raise TrainingError(f"source {source.name!r}: nothing in {path} is labelled")
    top, height = int(rows[0]), int(rows[-1]) + 1 - int(rows[0])
    first, stop = (round(height * share) for share in source.rows)
    return Window(
        row=top + first,
        col=int(cols[0]),
        height=max(1, stop - first),
        width=int(cols[-1]) + 1 - int(cols[0]),
    )


def count_blocks(
    shape: tuple[int, ...], gsd_m: float, name: str, source: SourceRecipe, recipe: TrainingRecipe
) -> tuple[int, int]:
    """Decide into how many blocks of about the size that was asked for a raster is divided.

    Args:
        shape: (height, width) of its labelled part.
        gsd_m: its pixel size, in the unit of the recipe's `pixel_m`.
        name: of the file.
        source: size of the blocks.
        recipe: pixel size.

    Returns:
        Rows and columns.

    Raises:
        TrainingError: the raster is smaller than two blocks.
    """
    height, width = shape
    side_px = source.block_px * recipe.pixel_m / gsd_m
    rows, cols = max(1, round(height / side_px)), max(1, round(width / side_px))
    if rows * cols < 2:
        raise TrainingError(
            f"source {source.name!r}: {name} has {height} × {width} labelled px, less than two "
            f"blocks of {side_px:.0f} px; choose a smaller block_px"
        )
    return rows, cols


def held_out_blocks(
    shape: tuple[int, ...],
    blocks: tuple[int, int],
    name: str,
    source: SourceRecipe,
    recipe: TrainingRecipe,
) -> NDArray[np.bool_]:
    """Choose the blocks of a raster that are held out, by lot.

    The labelled part is divided evenly, so that the same number of blocks holds out the same ground
    whatever pixel size it is read at.

    Args:
        shape: (height, width) of its labelled part.
        blocks: rows and columns, as `count_blocks` found them where training reads the raster.
        name: of the file: every raster has its own lot.
        source: share of the blocks that is held out; at least one is, and one is not.
        recipe: its seed.

    Returns:
        bool (height, width), True = held out.
    """
    (height, width), (rows, cols) = shape, blocks
    count = min(max(1, round(source.held_out * rows * cols)), rows * cols - 1)
    rng = np.random.default_rng((recipe.seed, zlib.crc32(name.encode())))
    chosen = np.zeros(rows * cols, np.bool_)
    chosen[rng.permutation(rows * cols)[:count]] = True
    row, col = np.arange(height) * rows // height, np.arange(width) * cols // width
    return np.asarray(chosen.reshape(rows, cols)[row[:, None], col])
