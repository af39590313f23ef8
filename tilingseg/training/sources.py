"""From a recipe's files to labelled rasters in memory.

Every raster is opened by the readers that inference uses, at the model's GSD, so that training sees
the same resampling. A raster that is coarser than the model keeps its own pixels where they are
square: windows bring them to the model's GSD when they are cut, at a quarter of the memory.

All is decoded once and kept as it is stored. A training job reads each pixel many times, and
decoding JPEG at every step would cost more than the network.

Labels are kept per class, with `UNKNOWN` where a source says nothing: pixels without data, values
that the recipe lists as unlabelled, what a mask does not cover, what lies outside the labelled
area, and every class that the source does not label.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from tilingseg.errors import TrainingError
from tilingseg.grid import Window
from tilingseg.readers import open_scene
from tilingseg.scaling import decide_scaling
from tilingseg.training.borders import border_weights
from tilingseg.training.labels import count_blocks, held_out_blocks, labelled_part, read_labels
from tilingseg.training.losses import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from tilingseg.records import Scaling, Scene, SceneReader
    from tilingseg.training.recipe import SourceRecipe, TrainingRecipe

_SPLIT_BY_BLOCKS = {"train": "blocks", "validation": "blocks", "test": ""}
_MARGIN_PX = 16
"""So much around held-out blocks is left out of training too."""
N_ANCHORS = 4096
"""Positive pixels that are remembered for each class of a raster."""
_COARSER = 0.9
"""A raster of at least this share of the model's GSD keeps its own pixels."""
_SQUARE = 0.01
"""Most that the sides of a square pixel differ; those of degrees are oblong on the ground."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the pixels of a labelled raster come from."""

    uri: str
    """The file."""
    window: Window
    """Its part that is used, px of the grid it was read on."""
    crs: str | None = None
    """CRS of that grid; None: nobody can say where on Earth it lies."""
    transform: tuple[float, float, float, float, float, float] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    """Affine of that grid: column and row to its CRS."""


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
    borders: NDArray[np.uint8] | None = None
    """(classes, height, width), 255 = 1: how near two objects are; None: the loss does not ask."""
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
        _load(recipe, source, folder, (path, stars), split)
        for source in recipe.sources
        if source.split in (split, _SPLIT_BY_BLOCKS[split])
        for path, stars in match_files(source, folder)
    )


def refuse_absent_classes(recipe: TrainingRecipe, rasters: tuple[LabelledRaster, ...]) -> None:
    """Refuse to learn a class of which no training raster holds a pixel.

    Raises:
        TrainingError: naming the class.
    """
    for index, name in enumerate(recipe.classes):
        if not any((raster.labels[index] == 1).any() for raster in rasters):
            raise TrainingError(
                f"no training raster holds a pixel of class {name!r}: check the mask values and "
                "vectors of its sources, or leave the class out"
            )


def refuse_without_background(
    recipe: TrainingRecipe,
    training: tuple[LabelledRaster, ...],
    held_out: tuple[LabelledRaster, ...],
) -> None:
    """Refuse a class of which nobody says where it is not: to see it everywhere would be perfect.

    Args:
        recipe: its classes, in the order of the labels.
        training: what is learnt; all of it together has to say so.
        held_out: what is measured; every source that holds the class has to say so.

    Raises:
        TrainingError: naming the class, and the source.
    """
    names = dict.fromkeys(raster.source.name for raster in held_out)
    groups = [("no training raster holds a", training)]
    for name in names:
        rasters = tuple(raster for raster in held_out if raster.source.name == name)
        groups.append((f"held-out source {name!r} holds no", rasters))
    for none_holds, rasters in groups:
        for index, name in enumerate(recipe.classes):
            labels = [raster.labels[index] for raster in rasters]
            if any((v == 1).any() for v in labels) and not any((v == 0).any() for v in labels):
                raise TrainingError(
                    f"{none_holds} pixel that is known not to be {name!r}, its background: check "
                    "the mask values, unlabelled and labelled of its sources, or leave the class "
                    "out there"
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
    split: str,
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
    if source.split == "blocks":
        blocks = count_blocks(valid.shape, gsd_m, path.name, source, recipe)
        held_out = held_out_blocks(valid.shape, blocks, path.name, source, recipe)
        valid, labels = _of_split(valid, labels, held_out, split)
    labels[:, ~valid] = UNKNOWN
    if (labels == UNKNOWN).all():
        raise TrainingError(f"source {source.name!r}: {path} has no data where it is labelled")
    return LabelledRaster(
        source=source,
        name=path.stem,
        pixels=pixels,
        valid=valid,
        labels=labels,
        gsd_m=gsd_m,
        scaling=scaling,
        anchors=_anchors(labels, recipe.seed),
        borders=_borders(labels, gsd_m, recipe),
        place=_place(path, reader.scene, window),
    )


def training_blocks(
    recipe: TrainingRecipe,
    source: SourceRecipe,
    folder: Path,
    found: tuple[Path, tuple[str, ...]],
) -> tuple[int, int]:
    """Return the rows and columns of blocks that training divides a raster into.

    At another pixel size a length may round to another number of blocks, which has another lot: who
    measures what was held out has to ask here.

    Args:
        recipe: pixel size.
        source: of the raster; its split is `blocks`.
        folder: what the recipe's paths are relative to.
        found: the raster, as from `match_files`.

    Raises:
        TrainingError: labels cannot be read, or there are less than two blocks.
        SceneError: the raster cannot be read.
    """
    path, stars = found
    reader, gsd_m = _open(path, source, recipe)
    try:
        labels = read_labels(reader.scene, recipe, source, folder, stars)
    finally:
        reader.close()
    part = labelled_part(labels, source, path)
    return count_blocks((part.height, part.width), gsd_m, path.name, source, recipe)


def _of_split(
    valid: NDArray[np.bool_], labels: NDArray[np.uint8], held_out: NDArray[np.bool_], split: str
) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
    """Keep the blocks of one split; of the other one, training does not even see the pixels."""
    if split == "train":
        near = ndimage.distance_transform_edt(~held_out) <= _MARGIN_PX
        return valid & ~near, labels
    return valid, np.where(held_out, labels, UNKNOWN).astype(np.uint8)


def _borders(
    labels: NDArray[np.uint8], gsd_m: float, recipe: TrainingRecipe
) -> NDArray[np.uint8] | None:
    if recipe.loss.border_weight == 0:
        return None
    sigma_px = recipe.loss.border_sigma_px * recipe.pixel_m / gsd_m
    return np.stack([border_weights(of_class, sigma_px) for of_class in labels])


def _place(path: Path, scene: Scene, window: Window) -> Place:
    georef = scene.georef
    return Place(uri=str(path), window=window, crs=georef.crs, transform=georef.transform)


def _open(path: Path, source: SourceRecipe, recipe: TrainingRecipe) -> tuple[SceneReader, float]:
    """Open a raster at the model's GSD, or at its own where that is coarser and square."""
    reader = open_scene(path, band_names=recipe.bands, pixel_m=source.gsd_m)
    if recipe.gsd_m is None:
        return reader, recipe.pixel_m
    georef = reader.scene.georef
    if georef.pixel_m is None or georef.gsd_m is None:
        reader.close()
        raise TrainingError(f"{path} does not say its pixel size; give gsd_m for {source.name!r}")
    # Windows are scaled alike along both sides: of oblong pixels they would show a stretched world.
    square = math.isclose(*georef.pixel_m, rel_tol=_SQUARE)
    if square and georef.gsd_m >= _COARSER * recipe.gsd_m:
        return reader, georef.gsd_m
    reader.close()
    reader = open_scene(path, band_names=recipe.bands, gsd_m=recipe.gsd_m, pixel_m=source.gsd_m)
    return reader, recipe.gsd_m


def _anchors(labels: NDArray[np.uint8], seed: int) -> tuple[NDArray[np.int64], ...]:
    rng = np.random.default_rng(seed)
    anchors = []
    for of_class in labels:
        positive = np.argwhere(of_class == 1)
        if len(positive):
            chosen = rng.choice(len(positive), size=min(N_ANCHORS, len(positive)), replace=False)
            anchors.append(positive[chosen])
    return tuple(anchors)
