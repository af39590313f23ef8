"""Which overviews of a file that GDAL has opened can be used, and what for.

An overview may lack the mask that its file has: it was built before the mask, or it lies in a file
of its own. All its pixels would count as valid, so that it is left aside. An overview may also have
been made by picking pixels, which is no base for resampling, and by kernels that lose specks of
data, so that it cannot tell where there are none. Few files say which kernel it was.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rasterio.enums import MaskFlags
from rasterio.vrt import WarpedVRT

from tilingseg.errors import SceneError
from tilingseg.readers.gdal_access import open_dataset
from tilingseg.readers.source import Level

if TYPE_CHECKING:
    from tilingseg.readers.gdal_access import GdalTarget

_PICKS = ("NEAREST", "NEAR", "MODE")
"""Kernels of overviews whose pixels are chosen, not averaged."""
_SHOWS_SPECKS = ("AVERAGE", "RMS", "BILINEAR", "CUBICSPLINE", "GAUSS")
"""Kernels of GDAL with which one valid pixel makes a pixel of an overview valid. Cubic and Lanczos
ones lost all of 144 specks as large as a pixel of the overview."""


def find_levels(
    dataset: Any, target: GdalTarget, masked: tuple[int, ...]
) -> tuple[tuple[Level, ...], tuple[int | None, ...], tuple[str, ...]]:
    """Find full resolution and the overviews that show the same.

    Args:
        dataset: rasterio dataset or WarpedVRT, full resolution.
        target: where it was opened.
        masked: bands, from 1, whose mask bands are read.

    Returns:
        levels: full resolution, and the overviews that can be used.
        indexes: GDAL's overview index of each level; None: full resolution.
        notes: what the user should know.

    Raises:
        SceneError: an overview cannot be opened.
    """
    height, width = dataset.shape
    levels = [Level(height=height, width=width)]
    indexes: list[int | None] = [None]
    n_unmasked = 0
    # Overviews of a scene that is warped lie on the grid that it has before.
    count = 0 if isinstance(dataset, WarpedVRT) else len(dataset.overviews(1))
    mask_shapes = _mask_shapes(dataset, target) if masked and count else None
    is_listed = count > 0 and _is_listed(dataset)
    for index in range(count):
        with open_dataset(target, OVERVIEW_LEVEL=index) as overview:
            rows, cols = overview.shape
            kernel = overview.tags(1).get("RESAMPLING") or dataset.tags().get("OVR_RESAMPLING_ALG")
            kernel = (kernel or "").upper().replace("_", "")
            is_unmasked = _all_valid(overview, masked) > _all_valid(dataset, masked)
            is_unmasked |= is_listed and kernel not in _PICKS
        # Slide formats store pictures of the label and of the whole slide where overviews belong.
        is_copy = abs(rows * width - cols * height) <= height + width
        if not is_copy or rows * cols >= height * width:
            continue
        if is_unmasked or (mask_shapes is not None and (rows, cols) not in mask_shapes):
            n_unmasked += 1
            continue
        levels.append(
            Level(
                height=rows,
                width=cols,
                scale=(height / rows, width / cols),
                averaged=kernel not in _PICKS,
                shows_specks=kernel in _SHOWS_SPECKS,
            )
        )
        indexes.append(index)
    return tuple(levels), tuple(indexes), _unmasked_note(n_unmasked)


def _is_listed(dataset: Any) -> bool:
    """Tell whether NODATA_VALUES other than 0 are nodata: averages of GDAL hold 0 for them."""
    if {*dataset.mask_flag_enums[0]} != {MaskFlags.per_dataset, MaskFlags.nodata}:
        return False
    return any(float(value) for value in dataset.tags().get("NODATA_VALUES", "").split())


def _all_valid(dataset: Any, bands: tuple[int, ...]) -> int:
    """Count the bands that state no pixel to be invalid."""
    return sum(MaskFlags.all_valid in dataset.mask_flag_enums[band - 1] for band in bands)


def _mask_shapes(dataset: Any, target: GdalTarget) -> set[tuple[int, int]] | None:
    """Return the shapes (height, width) in which a file has its mask; None: no need to look.

    GDAL calls an overview masked where the file is, whether there is a mask of the overview's size
    or not; then all its pixels are valid.
    """
    if MaskFlags.nodata in dataset.mask_flag_enums[0] or target.path.startswith("GTIFF_DIR:"):
        return None
    beside = [name for name in dataset.files if name.endswith(".msk")]
    if beside:
        mask = replace(target, path=beside[0])
        with open_dataset(mask) as full:
            shapes, count = {full.shape}, len(full.overviews(1))
        for index in range(count):
            with open_dataset(mask, OVERVIEW_LEVEL=index) as overview:
                shapes.add(overview.shape)
        return shapes
    if dataset.driver != "GTiff":
        return None
    # A mask inside is a directory of the same size as what it belongs to.
    found: Counter[tuple[int, int]] = Counter()
    for number in range(1, 2 * len(dataset.overviews(1)) + 3):
        directory = replace(target, path=f"GTIFF_DIR:{number}:{target.path}")
        try:
            with open_dataset(directory) as part:
                found[part.shape] += 1
        except SceneError:
            break
    return {shape for shape, n in found.items() if n > 1}


def _unmasked_note(count: int) -> tuple[str, ...]:
    if count == 0:
        return ()
    what = "One overview does" if count == 1 else f"{count} overviews do"
    return (
        f"{what} not have the file's mask of valid pixels and cannot be used; built anew, after "
        "the mask, they make previews and coarser pixels faster.",
    )
