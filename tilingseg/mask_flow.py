"""From a mask raster to vectors: the stages without a network, and without what a network needs.

What `tilingseg vectorize` calls. A run calls the same writers on its work store (`outputs`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tilingseg.errors import PlanError
from tilingseg.output_folder import OutputFolder, OutputOptions
from tilingseg.places import place
from tilingseg.progress import silent
from tilingseg.readers.mask_file import open_mask
from tilingseg.readers.mask_zarr import open_zarr_mask
from tilingseg.readers.probability_file import THRESHOLD, open_probabilities
from tilingseg.readers.source import scene_name
from tilingseg.records import IDENTITY
from tilingseg.vector_outputs import Results, Wanted, write_vectors
from tilingseg.vectorize.layers import layer_names

if TYPE_CHECKING:
    from tilingseg.progress import Progress
    from tilingseg.readers.mask_file import MaskFile
    from tilingseg.readers.mask_zarr import ZarrMask
    from tilingseg.readers.probability_file import ProbabilityFile
    from tilingseg.records import Georef


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorizeOptions:
    """What the user may ask of `vectorize`."""

    classes: tuple[str, ...] | None = None
    """Classes to vectorise; None: all. For a mask that does not name its classes: what they are
    called, in the order of their values."""
    thresholds: tuple[tuple[str | None, float], ...] = ()
    """(class, probability) pairs, for a raster of probabilities; class None: all."""
    pixel_m: float | None = None
    """Pixel size of a mask that does not say its own, metres."""
    outputs: OutputOptions = field(default_factory=lambda: OutputOptions(formats=("geojson",)))
    """Formats, and how the vectors are made."""
    overwrite: bool = False
    """Replace files that exist."""


def vectorize(
    uri: str | Path,
    out_dir: str | Path | None = None,
    *,
    options: VectorizeOptions | None = None,
    progress: Progress = silent,
) -> Results:
    """Turn the classes of any raster of classes or probabilities into vectors.

    Args:
        uri: path or URL of a raster of whole numbers, whose classes are named by the file or its
            values, or of probabilities, one band a class, or of the Zarr result of a run.
        out_dir: folder of the outputs, or URL of a prefix on an object store; None: the current
            folder.
        options: what to do other than by default.
        progress: told how far each stage is.

    Returns:
        Paths and counts.

    Raises:
        TilingSegError: the file is no mask, or the outputs cannot be written.
    """
    options = options or VectorizeOptions()
    _refuse_names(options.classes)
    mask, thresholds = _open(uri, options)
    try:
        names = mask.classes if options.classes is None else options.classes
        if not names:
            raise PlanError(
                f"{uri} holds no class, only background and nodata; name the empty layers that you "
                "want with --classes, or leave it out"
            )
        for name in names:
            if name not in mask.classes:
                raise PlanError(
                    f"{uri} has no class {name!r}; it has {', '.join(mask.classes) or 'none'}"
                )
        name = scene_name(str(uri)).removesuffix("_mask").removesuffix("_probability")
        folder = OutputFolder(path=place(out_dir or "."), scene=name)
        indexes = tuple(mask.classes.index(name) for name in names)
        if not layer_names(mask.classes, indexes):
            raise PlanError(
                f"{', '.join(names)} divides buildings and is no layer of its own; name the class "
                "of the buildings too"
            )
        folder.check_layers(mask, indexes, options.outputs, overwrite=options.overwrite)
        results = Results(notes=[*_remarks(mask.georef), *mask.notes])
        wanted = Wanted(class_indexes=indexes, thresholds=thresholds)
        with folder.at_hand() as here:
            write_vectors(mask, wanted, here, options.outputs, results, progress)
        results.outputs = [(k, str(folder.path / Path(path).name)) for k, path in results.outputs]
        return results
    finally:
        mask.close()


def _refuse_names(classes: tuple[str, ...] | None) -> None:
    """Refuse class names that no mask can have."""
    if classes == ():
        raise PlanError("no class is named; leave the classes out to get all")
    for name, count in Counter(classes).items():
        if count > 1:
            raise PlanError(f"class {name!r} is named {count} times; each class has its own name")


def _remarks(georef: Georef) -> list[str]:
    """Return what the user should know about the place of a mask."""
    if georef.crs is not None:
        return []
    is_map = georef.transform[2] != 0 or georef.transform[5] != 0
    alone = is_map and georef.transform != georef.in_file
    return [
        "The mask does not say where it lies (CRS and transform): coordinates are pixels"
        + (" of the scene that it was made from" if georef.in_file != IDENTITY else "")
        + ", GeoJSON as QuPath reads it"
        + ("; a transform without a CRS is not used." if alone else ".")
    ]


def _open(
    uri: str | Path, options: VectorizeOptions
) -> tuple[MaskFile | ProbabilityFile | ZarrMask, tuple[float, ...]]:
    """Open a raster of any kind; return the threshold of each class too."""
    stored = open_zarr_mask(uri, pixel_m=options.pixel_m)
    if stored is not None:
        if options.thresholds:
            raise PlanError(
                f"{uri} holds the mask as it was cut; other thresholds need the probabilities as "
                "GeoTIFF, from run --formats cog --probability"
            )
        return stored, stored.thresholds
    probabilities = open_probabilities(
        uri, pixel_m=options.pixel_m, names=options.classes, thresholds=options.thresholds
    )
    if probabilities is not None:
        return probabilities, probabilities.thresholds
    if options.thresholds:
        raise PlanError(f"{uri} holds classes, not probabilities: there is nothing to cut")
    mask = open_mask(uri, pixel_m=options.pixel_m, names=options.classes)
    return mask, (THRESHOLD,) * len(mask.classes)
