"""One raster: run it, read the outputs back, count where they agree with the labels.

Counts are kept by window, so that intervals can be drawn from them and the best and worst windows
be shown. Polygons are compared in pixels of the run's grid; true ones come from the vector labels
where there are such, otherwise from the connected pieces of the label raster.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import geopandas
import numpy as np
import rasterio
import shapely
import shapely.affinity
import shapely.geometry
from affine import Affine
from rasterio.features import rasterize, shapes
from scipy import ndimage
from skimage.morphology import skeletonize

from tilingseg import flow
from tilingseg.affine import moved
from tilingseg.area import area_from_box, area_window
from tilingseg.evaluation.pictures import agreement_of, write_agreement, write_scene
from tilingseg.grid import Window
from tilingseg.metrics.pixels import IGNORE, PixelCounts, count_boundary, count_pixels
from tilingseg.metrics.polygons import compare_footprints
from tilingseg.output_folder import OutputFolder, OutputOptions
from tilingseg.readers import open_scene
from tilingseg.training.labels import held_out_blocks, labelled_part, read_labels
from tilingseg.training.losses import UNKNOWN
from tilingseg.training.sources import training_blocks
from tilingseg.training.validate import Score, count_bins
from tilingseg.training.vectors import vector_labels

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from tilingseg.job import RunOptions
    from tilingseg.model.spec import ModelSpec
    from tilingseg.records import Scene, SceneReader
    from tilingseg.training.recipe import SourceRecipe, TrainingRecipe

LINE_REACH_M = 3.0
"""Farthest that a found centreline may lie from the true one, metres (pixels without a size)."""
_INSIDE_PX = 0.25
"""A box of whole pixels is drawn in by this, so that rounding adds no row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What all rasters of an evaluation share."""

    recipe: TrainingRecipe
    """Where the labels are."""
    data: Path
    """Folder that the recipe's paths are relative to."""
    spec: ModelSpec
    """The model's."""
    run: RunOptions
    """How to run it; area, pixel size and outputs are decided here."""
    window_px: int
    """Side of the windows that counts are kept for, px."""
    boundary_px: int
    """Width of the rim of the boundary IoU, px."""
    whole: bool
    """Whether polygons and lines are made and compared and pictures drawn too, or masks and
    probabilities are counted alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowCounts:
    """One class in one window."""

    folder: Path
    """The outputs of the raster's run."""
    window: Window
    """Pixels of the outputs."""
    pixels: PixelCounts
    """All pixels."""
    boundary: PixelCounts
    """Pixels of the rims."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClassCounts:
    """One class in one raster."""

    region: str
    """Name of the source."""
    class_name: str
    """The class."""
    windows: tuple[WindowCounts, ...]
    """Every window with a known pixel."""
    bins: Score
    """Pixels by their probability."""
    area_m2: float
    """Ground that is labelled, m²; pixels where their size is not known."""
    instances: tuple[int, int, int] | None
    """Polygons found, true, matched at an IoU of 0.5; None: the class is no set of objects."""
    lines: tuple[int, int, int, int] | None
    """Centreline pixels true, of them near a found one, found, of them near a true one; None: the
    class has no centrelines."""


def measure_raster(
    path: Path, stars: tuple[str, ...], source: SourceRecipe, out: Path, setting: Setting
) -> tuple[ClassCounts, ...]:
    """Run one raster and count, class by class.

    Args:
        path: the raster.
        stars: what the stars of the source's pattern stand for in its name.
        source: where it comes from.
        out: folder for the outputs of its run; no other raster may have it.
        setting: what all rasters share.

    Returns:
        One record for each class that is labelled here and that the model knows.

    Raises:
        TilingSegError: the labels cannot be read, or the run fails.
    """
    reader = _open(path, source, setting)
    try:
        scene = reader.scene
        labels = read_labels(scene, setting.recipe, source, setting.data, stars)
        part = labelled_part(labels, source, path)
        if source.split == "blocks":
            rows, cols = part.slices_in(_whole(scene))
            blocks = training_blocks(setting.recipe, source, setting.data, (path, stars))
            shape = (part.height, part.width)
            held_out = held_out_blocks(shape, blocks, path.name, source, setting.recipe)
            labels[:, rows, cols][:, ~held_out] = UNKNOWN
        options, extent = _restricted(scene, part, source, setting)
        folder = OutputFolder(path=out, scene=scene.name)
        flow.run(path, folder.path, options=options)
        picture = None
        if setting.whole:
            picture = write_scene(folder.path / "scene.png", *reader.read(extent))
    finally:
        reader.close()
    mask, probability = _read(folder, "mask")[0], _read(folder, "probability")
    inside = np.zeros((scene.height, scene.width), np.bool_)
    inside[part.slices_in(_whole(scene))] = True
    cut = extent.slices_in(_whole(scene))
    known = inside[cut] & (mask != IGNORE)

    result = []
    for position, name in enumerate(setting.recipe.classes):
        truth = np.where(known, labels[position][cut], IGNORE).astype(np.uint8)
        if name not in setting.spec.classes or (truth == IGNORE).all():
            continue
        index = setting.spec.classes.index(name)
        found = (mask == index + 1).astype(np.uint8)
        if picture is not None:
            write_agreement(folder.path / agreement_of(name), picture, found, truth)
        positive, negative = count_bins(probability[index], truth)
        lines = folder.of_layer(f"{name}_centerline", ".gpkg")
        polygons = _Polygons(scene, extent, folder.of_layer(name, ".gpkg"))
        label = next(item for item in source.classes if item.name == name)
        vectors = label.vectors and setting.data / label.vectors.format(*stars)
        gsd_m = scene.georef.gsd_m or 1.0
        result.append(
            ClassCounts(
                region=source.name,
                class_name=name,
                windows=tuple(_windows(found, truth, folder.path, setting)),
                bins=Score(
                    source=source.name, class_name=name, positive=positive, negative=negative
                ),
                area_m2=float(np.count_nonzero(truth != IGNORE) * gsd_m**2),
                instances=polygons.agreement(truth, vectors or None, label.width_m)
                if setting.whole and not lines.exists()
                else None,
                lines=_lines(lines, truth, polygons, gsd_m) if lines.exists() else None,
            )
        )
    return tuple(result)


def _open(path: Path, source: SourceRecipe, setting: Setting) -> SceneReader:
    """Open a raster on the grid that the run will use."""
    run, spec = setting.run, setting.spec
    return open_scene(
        path,
        bands=run.bands,
        band_names=spec.bands,
        gsd_m=spec.gsd_m if run.gsd_m is None else run.gsd_m,
        pixel_m=source.gsd_m or run.pixel_m,
    )


def _restricted(
    scene: Scene, part: Window, source: SourceRecipe, setting: Setting
) -> tuple[RunOptions, Window]:
    """Return the options of a run over a part of a scene, and the pixels that its outputs have."""
    outputs = OutputOptions(
        formats=("cog", "gpkg") if setting.whole else ("cog",),
        probability=True,
        vectors=setting.run.outputs.vectors,
    )
    options = dataclasses.replace(
        setting.run,
        pixel_m=source.gsd_m or setting.run.pixel_m,
        outputs=outputs,
        overwrite=True,
        resume=False,  # whatever an interrupted evaluation left may be of another model
    )
    if part == _whole(scene):
        return options, part
    frame = shapely.box(
        part.col + _INSIDE_PX,
        part.row + _INSIDE_PX,
        part.col_stop - _INSIDE_PX,
        part.row_stop - _INSIDE_PX,
    )
    min_x, min_y, max_x, max_y = moved(frame, scene.georef.to_coordinates).bounds
    box = (min_x, min_y, max_x, max_y)
    return dataclasses.replace(options, box=box), area_window(area_from_box(scene, box), scene)


def _whole(scene: Scene) -> Window:
    return Window(row=0, col=0, height=scene.height, width=scene.width)


def _read(folder: OutputFolder, layer: str) -> NDArray[np.uint8]:
    """Return uint8 (bands, height, width) of one raster output."""
    with rasterio.open(folder.of_layer(layer, ".tif")) as dataset:
        return np.asarray(dataset.read(), np.uint8)


def _windows(
    found: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    folder: Path,
    setting: Setting,
) -> Iterator[WindowCounts]:
    height, width = truth.shape
    side, rim = setting.window_px, setting.boundary_px
    for row in range(0, height, side):
        for col in range(0, width, side):
            core = (slice(row, row + side), slice(col, col + side))
            if (truth[core] == IGNORE).all():
                continue
            top, left = max(0, row - rim), max(0, col - rim)
            around = (slice(top, row + side + rim), slice(left, col + side + rim))
            inner = (slice(row - top, row - top + side), slice(col - left, col - left + side))
            yield WindowCounts(
                folder=folder,
                window=Window(
                    row=row, col=col, height=min(side, height - row), width=min(side, width - col)
                ),
                pixels=count_pixels(found[core], truth[core]),
                boundary=count_boundary(found[around], truth[around], 1, rim, inner),
            )


class _Polygons:
    """The vectors of a class, in pixels of the outputs."""

    def __init__(self, scene: Scene, extent: Window, path: Path) -> None:
        a, b, c, d, e, f = (~Affine(*scene.georef.to_coordinates))[:6]
        self._to_pixels = (a, b, c - extent.col, d, e, f - extent.row)
        self._scene = scene
        self._path = path

    def read(self, path: Path) -> NDArray[np.object_]:
        """Return the geometries of a file that the run wrote."""
        return self.moved(geopandas.read_file(path, columns=[]).geometry.to_numpy())

    def moved(self, geometries: Any) -> NDArray[np.object_]:
        result: NDArray[np.object_] = moved(np.asarray(geometries, object), self._to_pixels)
        return result

    def agreement(
        self, truth: NDArray[np.uint8], vectors: Path | None, width_m: float | None
    ) -> tuple[int, int, int]:
        """Compare the polygons with the true ones; both only where the truth is known."""
        if vectors is None:
            # GDAL takes the identity for "lies nowhere" and warns; half a pixel is undone below.
            shift = Affine.translation(0.5, 0)
            pieces = shapes(truth, mask=truth == 1, connectivity=4, transform=shift)
            true = [shapely.geometry.shape(piece) for piece, _ in pieces]
            true = [shapely.affinity.translate(polygon, -0.5) for polygon in true]
        else:
            true = [*self.moved(vector_labels(vectors, self._scene, width_m))]
        found = [*self.read(self._path)]
        result = compare_footprints(_known(found, truth), _known(true, truth))
        return result.n_found, result.n_true, result.n_matched


def _known(polygons: list[Any], truth: NDArray[np.uint8]) -> list[Any]:
    """Return the single polygons whose middle is labelled."""
    height, width = truth.shape
    kept = []
    for polygon in shapely.get_parts(np.asarray(polygons, object)):
        if polygon.geom_type != "Polygon" or polygon.is_empty:
            continue
        middle = polygon.representative_point()
        row, col = int(middle.y // 1), int(middle.x // 1)
        if 0 <= row < height and 0 <= col < width and truth[row, col] != IGNORE:
            kept.append(polygon if polygon.is_valid else polygon.buffer(0))
    return kept


def _lines(
    path: Path, truth: NDArray[np.uint8], polygons: _Polygons, gsd_m: float
) -> tuple[int, int, int, int]:
    """Compare centrelines, pixel by pixel of lines one pixel wide."""
    true = skeletonize(truth == 1)
    drawn = np.zeros(truth.shape, np.uint8)
    if len(lines := polygons.read(path)):
        # One more row on top: the identity would be taken for "lies nowhere".
        shape = (truth.shape[0] + 1, truth.shape[1])
        drawn = rasterize(lines, out_shape=shape, transform=Affine.translation(0, -1))[1:]
    found = (drawn == 1) & (truth != IGNORE)
    reach_px = LINE_REACH_M / gsd_m
    near_found = _near(found, reach_px)
    near_true = _near(true, reach_px)
    return (
        int(true.sum()),
        int((true & near_found).sum()),
        int(found.sum()),
        int((found & near_true).sum()),
    )


def _near(lines: NDArray[np.bool_], reach_px: float) -> NDArray[np.bool_]:
    if not lines.any():
        return np.zeros(lines.shape, np.bool_)
    return np.asarray(ndimage.distance_transform_edt(~lines) <= reach_px)
