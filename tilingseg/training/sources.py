"""From a recipe's files to labelled rasters in memory.

Every raster is opened by the readers that inference uses, at the model's GSD, so that training sees
the same resampling. A raster that is coarser than the model keeps its own pixels: windows bring
them to the model's GSD when they are cut, which costs a quarter of the memory.

All is decoded once and kept as it is stored. A training job reads each pixel many times, and
decoding JPEG at every step would cost more than the network.

Labels are kept per class, with `UNKNOWN` where a source says nothing: pixels without data, values
that the recipe lists as unlabelled, what a mask does not cover, and every class that the source
does not label.
"""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

import geopandas
import numpy as np
import rasterio
from pyogrio.errors import DataSourceError
from pyproj.exceptions import ProjError
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.features import rasterize
from rasterio.warp import reproject, transform_bounds

from tilingseg.errors import TrainingError
from tilingseg.grid import Window
from tilingseg.readers import open_scene
from tilingseg.scaling import decide_scaling
from tilingseg.training.losses import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from tilingseg.records import Scaling, Scene, SceneReader
    from tilingseg.training.recipe import SourceRecipe, TrainingRecipe

N_ANCHORS = 4096
"""Positive pixels that are remembered for each class of a raster."""
_SILENT = -1
"""Value of a mask where it says nothing: every byte may stand for a class."""
_COARSER = 0.9
"""A raster of at least this share of the model's GSD keeps its own pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the pixels of a labelled raster come from."""

    uri: str
    """The file."""
    window: Window
    """Its part that is used, px of the grid it was read on."""
    lonlat: tuple[float, float, float, float] | None
    """West, south, east, north of that part, degrees; None: nobody can say."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledRaster:
    """Pixels and labels of one raster, or of its labelled part, in memory."""

    source: SourceRecipe
    """Where it comes from."""
    name: str
    """Stem of the file."""
    pixels: NDArray[Any]
    """(bands, height, width) in the stored dtype; undefined where not valid."""
    valid: NDArray[np.bool_]
    """(height, width), True = holds data."""
    labels: NDArray[np.uint8]
    """(classes, height, width): 0, 1 or `UNKNOWN`."""
    gsd_m: float
    """Ground pixel size, metres; 1 where the recipe takes pixels as they are."""
    scaling: Scaling
    """Stored values that become 0 and 1."""
    anchors: tuple[NDArray[np.int64], ...]
    """(n, 2) row and column of some positive pixels, for each class that has any."""
    place: Place | None = None
    """Where the pixels come from; None: from nowhere, as in a drawing."""


def load_sources(recipe: TrainingRecipe, folder: Path, split: str) -> tuple[LabelledRaster, ...]:
    """Decode all rasters of one split.

    Args:
        recipe: lists the sources.
        folder: what the recipe's paths are relative to.
        split: `train` or `validation`.

    Raises:
        TrainingError: a pattern matches nothing, labels cannot be read or do not fit their raster.
        SceneError: a raster cannot be read.
    """
    return tuple(
        _load(recipe, source, folder, (path, stars))
        for source in recipe.sources
        if source.split == split
        for path, stars in match_files(source, folder)
    )


def match_files(source: SourceRecipe, folder: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Yield each raster of a source with the text that the pattern's stars stand for.

    Raises:
        TrainingError: there is none.
    """
    pattern = re.compile(re.escape(source.rasters).replace(r"\*", "([^/]*)"))
    found = False
    for path in sorted(folder.glob(source.rasters)):
        match = pattern.fullmatch(path.relative_to(folder).as_posix())
        wanted = any(fnmatch(path.name, item) for item in source.include)
        refused = any(fnmatch(path.name, item) for item in source.exclude)
        if match is not None and wanted and not refused:
            found = True
            yield path, match.groups()
    if not found:
        raise TrainingError(
            f"source {source.name!r}: no file matches {folder / source.rasters}, or its include "
            "and exclude leave none"
        )


def _load(
    recipe: TrainingRecipe,
    source: SourceRecipe,
    folder: Path,
    found: tuple[Path, tuple[str, ...]],
) -> LabelledRaster:
    path, stars = found
    reader, gsd_m = _open(path, source, recipe)
    try:
        labels = read_labels(reader.scene, recipe, source, folder, stars)
        window = labelled_part(labels, source, path)
        rows, cols = window.slices_in(
            Window(row=0, col=0, height=labels.shape[1], width=labels.shape[2])
        )
        pixels, valid = reader.read(window)
        scaling = decide_scaling(reader, recipe.spec())
    finally:
        reader.close()
    labels = labels[:, rows, cols].copy()
    labels[:, ~valid] = UNKNOWN
    return LabelledRaster(
        source=source,
        name=path.stem,
        pixels=pixels,
        valid=valid,
        labels=labels,
        gsd_m=gsd_m,
        scaling=scaling,
        anchors=_anchors(labels, recipe.seed),
        place=Place(uri=str(path), window=window, lonlat=_lonlat(reader.scene, window)),
    )


def _lonlat(scene: Scene, window: Window) -> tuple[float, float, float, float] | None:
    if scene.georef.crs is None:
        return None
    a, b, c, d, e, f = scene.georef.transform
    cols, rows = (window.col, window.col_stop), (window.row, window.row_stop)
    corners = [(a * x + b * y + c, d * x + e * y + f) for x in cols for y in rows]
    xs, ys = zip(*corners, strict=True)
    bounds = transform_bounds(scene.georef.crs, "EPSG:4326", min(xs), min(ys), max(xs), max(ys))
    west, south, east, north = (float(value) for value in bounds)
    return west, south, east, north


def _open(path: Path, source: SourceRecipe, recipe: TrainingRecipe) -> tuple[SceneReader, float]:
    """Open a raster at the model's GSD, or at its own where that is coarser."""
    reader = open_scene(path, band_names=recipe.bands, pixel_m=source.gsd_m)
    if recipe.gsd_m is None:
        return reader, recipe.pixel_m
    native = reader.scene.georef.gsd_m
    if native is None:
        reader.close()
        raise TrainingError(f"{path} does not say its pixel size; give gsd_m for {source.name!r}")
    if native >= _COARSER * recipe.gsd_m:
        return reader, native
    reader.close()
    reader = open_scene(path, band_names=recipe.bands, gsd_m=recipe.gsd_m, pixel_m=source.gsd_m)
    return reader, recipe.gsd_m


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
        values = _read_mask(folder / source.mask.format(*stars), scene, source.unlabelled)
    labels = np.full((len(recipe.classes), scene.height, scene.width), UNKNOWN, np.uint8)
    for label in source.classes:
        of_class = labels[recipe.classes.index(label.name)]
        if label.vectors is not None:
            of_class[:] = _burn(folder / label.vectors.format(*stars), scene)
        elif values is not None:
            silent = np.isin(values, (_SILENT, *label.unlabelled))
            of_class[:] = np.where(silent, UNKNOWN, np.isin(values, label.values or ()))
    return labels


def _read_mask(path: Path, scene: Scene, unlabelled: tuple[int, ...]) -> NDArray[np.int32]:
    """Return the mask's values on the scene's grid; `_SILENT` where it says nothing."""
    shape = (scene.height, scene.width)
    try:
        with (
            warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning),
            rasterio.open(path) as dataset,
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
                    dst_transform=rasterio.Affine(*scene.georef.transform),
                    dst_crs=scene.georef.crs,
                    dst_nodata=_SILENT,
                    init_dest_nodata=True,
                    resampling=Resampling.mode,
                )
    except RasterioError as error:
        raise TrainingError(f"mask {path} cannot be read: {error}") from error
    result = np.asarray(values, np.int32)
    result[np.isin(result, unlabelled)] = _SILENT
    return result


def _burn(path: Path, scene: Scene) -> NDArray[np.uint8]:
    """Return 1 where a polygon of the file covers a pixel's centre, 0 elsewhere."""
    shapes = vector_labels(path, scene)
    shape = (scene.height, scene.width)
    if not shapes:
        return np.zeros(shape, np.uint8)
    burnt = rasterize(
        shapes, out_shape=shape, transform=rasterio.Affine(*scene.georef.transform), dtype="uint8"
    )
    return np.asarray(burnt, np.uint8)


def vector_labels(path: Path, scene: Scene) -> list[BaseGeometry]:
    """Read the geometries of a label file and bring them to the scene's CRS.

    Args:
        path: GeoJSON, GeoPackage, or whatever else GDAL reads.
        scene: where they must lie.

    Raises:
        TrainingError: it cannot be read, nobody can say where it lies, or it lies elsewhere.
    """
    try:
        frame = geopandas.read_file(path, columns=[])
    except (DataSourceError, OSError, ValueError) as error:
        raise TrainingError(f"labels {path} cannot be read: {error}") from error
    crs = scene.georef.crs
    if crs is not None and frame.crs is None:
        raise TrainingError(f"labels {path} have no CRS, {scene.name} is in {_short(crs)}")
    if crs is None and frame.crs is not None and not _is_plain_geojson(path):
        raise TrainingError(
            f"labels {path} are in {_short(frame.crs.to_string())}, but {scene.name} has no CRS: "
            "give labels in pixels, without a CRS"
        )
    if crs is not None and len(frame):
        try:
            frame = frame.to_crs(crs)
        except ProjError as error:
            raise TrainingError(f"labels {path} do not fit {_short(crs)}: {error}") from error
        _refuse_elsewhere(path, frame.total_bounds, scene)
    return [item for item in frame.geometry if item is not None and not item.is_empty]


def _is_plain_geojson(path: Path) -> bool:
    # GeoJSON cannot say that its coordinates are pixels: readers take it for degrees.
    return path.suffix.lower() in (".geojson", ".json")


def _short(crs: str) -> str:
    return crs if len(crs) < 30 else f"{crs[:30]}…"


def _refuse_elsewhere(path: Path, bounds: NDArray[np.float64], scene: Scene) -> None:
    a, b, c, d, e, f = scene.georef.transform
    corners = [(x, y) for x in (0, scene.width) for y in (0, scene.height)]
    xs, ys = zip(*((a * x + b * y + c, d * x + e * y + f) for x, y in corners), strict=True)
    apart = bounds[0] > max(xs) or bounds[2] < min(xs) or bounds[1] > max(ys) or bounds[3] < min(ys)
    if apart or not np.isfinite(bounds).all():
        here = f"{min(xs):.10g},{min(ys):.10g},{max(xs):.10g},{max(ys):.10g}"
        there = ",".join(f"{value:.10g}" for value in bounds)
        raise TrainingError(
            f"labels {path} lie at {there} and do not overlap {scene.name} at {here} "
            f"({_short(scene.georef.crs or 'pixels')})"
        )


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


def _anchors(labels: NDArray[np.uint8], seed: int) -> tuple[NDArray[np.int64], ...]:
    rng = np.random.default_rng(seed)
    anchors = []
    for of_class in labels:
        positive = np.argwhere(of_class == 1)
        if len(positive):
            chosen = rng.choice(len(positive), size=min(N_ANCHORS, len(positive)), replace=False)
            anchors.append(positive[chosen])
    return tuple(anchors)
