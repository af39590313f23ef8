"""What is in a file that GDAL has opened, and how to read the chosen bands of it."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.vrt import WarpedVRT

from tilingseg.errors import SceneError
from tilingseg.readers.bands import FileBand, choose_bands
from tilingseg.readers.gdal_overviews import find_levels
from tilingseg.readers.georef import locate
from tilingseg.readers.http_tag import http_tag
from tilingseg.readers.physical import physical_pixel_m
from tilingseg.readers.source import ReadOptions, SourceInfo, delivered_dtype, scene_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilingseg.readers.gdal_access import GdalTarget
    from tilingseg.records import Georef

_HUGE_BLOCK_BYTES = 256_000_000
_PALETTE_BANDS = tuple(
    FileBand(index=index, colour=colour)
    for index, colour in enumerate(("red", "green", "blue"), start=1)
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GdalLayout:
    """How to read the chosen bands of one file, and tell which pixels are valid."""

    target: GdalTarget
    """Where the file is."""
    info: SourceInfo
    """What it says about itself."""
    overviews: tuple[int | None, ...]
    """GDAL's overview index for each level of `info`; None: full resolution."""
    reads: tuple[int, ...]
    """Bands to fetch, from 1, each once; the alpha band last."""
    order: tuple[int, ...]
    """Position in `reads` (for a palette: red 0, green 1, blue 2) of each band delivered."""
    has_alpha: bool
    """The last of `reads` is an alpha band."""
    mask: Literal["none", "dataset", "bands"]
    """Mask bands to fetch besides."""
    nodata: tuple[float | None, ...]
    """Nodata value of each band of `reads` but the alpha band; None: it has none."""
    palette: NDArray[np.uint8] | None
    """uint8 (entries, 4): red, green, blue, alpha of each value; None: no palette."""


def describe(dataset: Any, target: GdalTarget, options: ReadOptions) -> GdalLayout:
    """Look at an open dataset and decide how to read it.

    Args:
        dataset: rasterio dataset or WarpedVRT, full resolution.
        target: where it was opened.
        options: what the caller wants.

    Raises:
        SceneError: it holds nothing that can be segmented, or not the bands that are wanted.
    """
    uri = target.uri
    refuse_container(dataset, uri)
    palette = _palette(dataset)
    available = _file_bands(dataset) if palette is None else _PALETTE_BANDS
    bands, notes = choose_bands(available, options, uri)
    chosen = tuple(band.index for band in bands)
    if palette is None:
        data = tuple(dict.fromkeys(chosen))
        order = tuple(data.index(index) for index in chosen)
        dtype = delivered_dtype(_stored_dtype(dataset, data, uri), uri)
    else:
        data, order, dtype = (1,), tuple(index - 1 for index in chosen), "uint8"
        notes = (*notes, "The palette is expanded to red, green and blue.")
    alpha = _alpha_index(dataset, data)
    nodata = tuple(dataset.nodatavals[index - 1] for index in data)
    mask = _mask_kind(dataset, data)
    levels, overviews, remark = find_levels(dataset, target, () if mask == "none" else data)
    info = SourceInfo(
        uri=uri,
        name=scene_name(uri),
        revision=_revision(dataset, target),
        bands=bands,
        dtype=dtype,
        georef=_georef(dataset, options, uri),
        levels=levels,
        averages_skip_nan=any(value is not None and math.isnan(value) for value in nodata),
        notes=notes + _remarks(dataset) + remark,
    )
    return GdalLayout(
        target=target,
        info=info,
        overviews=overviews,
        reads=data if alpha is None else (*data, alpha),
        order=order,
        has_alpha=alpha is not None,
        mask=mask,
        nodata=nodata,
        palette=palette,
    )


def refuse_container(dataset: Any, uri: str) -> None:
    """Raise where a file holds several rasters and is none itself.

    Raises:
        SceneError: naming the rasters inside.
    """
    if dataset.count:
        return
    inside = dataset.subdatasets
    if not inside:
        raise SceneError(f"{uri} holds no raster band")
    shown = ", ".join(inside[:6]) + (", …" if len(inside) > 6 else "")
    raise SceneError(f"{uri} holds {len(inside)} rasters; name one of them: {shown}")


def _file_bands(dataset: Any) -> tuple[FileBand, ...]:
    return tuple(
        FileBand(
            index=index,
            description=dataset.descriptions[index - 1] or "",
            colour="" if colour is ColorInterp.undefined else colour.name.lower(),
            is_alpha=colour is ColorInterp.alpha,
        )
        for index, colour in enumerate(dataset.colorinterp, start=1)
    )


def _palette(dataset: Any) -> NDArray[np.uint8] | None:
    if dataset.colorinterp[0] is not ColorInterp.palette:
        return None
    entries = dataset.colormap(1)
    table = np.zeros((max(entries) + 1, 4), np.uint8)
    for value, colour in entries.items():
        table[value] = colour
    return table


def _stored_dtype(dataset: Any, data: tuple[int, ...], uri: str) -> str:
    stored = {dataset.dtypes[index - 1] for index in data}
    if len(stored) > 1:
        raise SceneError(
            f"{uri} holds bands of different types ({', '.join(sorted(stored))}); choose bands of "
            "one type with --bands"
        )
    return str(stored.pop())


def _alpha_index(dataset: Any, data: tuple[int, ...]) -> int | None:
    """Return the alpha band, unless the caller wants that band as data."""
    for index, colour in enumerate(dataset.colorinterp, start=1):
        if colour is ColorInterp.alpha and index not in data:
            return index
    return None


def _mask_kind(dataset: Any, data: tuple[int, ...]) -> Literal["none", "dataset", "bands"]:
    flags = [set(dataset.mask_flag_enums[index - 1]) for index in data]
    # nodata beside per_dataset: a value for each band that counts where all have theirs (RFC 15),
    # which the bands themselves do not tell
    settled = ({MaskFlags.all_valid}, {MaskFlags.nodata})
    if all(flag in settled or MaskFlags.alpha in flag for flag in flags):
        return "none"
    return "dataset" if all(MaskFlags.per_dataset in flag for flag in flags) else "bands"


def _georef(dataset: Any, options: ReadOptions, uri: str) -> Georef:
    a, b, c, d, e, f = (float(number) for number in dataset.transform[:6])
    crs = dataset.crs.to_wkt() if _is_placed(dataset) else None
    if crs is None and options.pixel_m is None and dataset.tags(ns="RPC"):
        raise SceneError(
            f"{uri} is placed by rational polynomials (RPCs) alone, which takes a terrain model; "
            "orthorectify it with gdalwarp -rpc -to RPC_DEM=dem.tif -t_srs EPSG:… first, or give "
            "the size of its pixels in metres to work in pixel coordinates"
        )
    georef = locate(crs, (a, b, c, d, e, f), dataset.shape, options, uri)
    if georef.pixel_m is None and crs is None:
        return replace(georef, pixel_m=physical_pixel_m(dataset.tags()))
    return georef


def _is_placed(dataset: Any) -> bool:
    return bool(dataset.crs) and not dataset.transform.is_identity


def _remarks(dataset: Any) -> tuple[str, ...]:
    remarks = []
    if isinstance(dataset, WarpedVRT):
        remarks.append("Warped to a north-up grid by the file's ground control points.")
    if not _is_placed(dataset):
        missing = "a CRS but no transform" if dataset.crs else "no CRS"
        remarks.append(f"The file has {missing}; coordinates are pixels.")
    if dataset.subdatasets:
        count = len(dataset.subdatasets)
        other = dataset.subdatasets[1:2] or dataset.subdatasets
        remarks.append(
            f"The file holds {count} images; the first is read (to read another, name it, such as "
            f"{other[0]})."
        )
    height, width = dataset.block_shapes[0]
    size = height * width * np.dtype(dataset.dtypes[0]).itemsize
    if size > _HUGE_BLOCK_BYTES:
        remarks.append(
            f"The file is stored in blocks of {size / 1e9:.1f} GB a band, which must be read "
            "whole; gdal_translate -co TILED=YES makes reading faster and needs less memory."
        )
    return tuple(remarks)


def _revision(dataset: Any, target: GdalTarget) -> str:
    # Programs that only look at a scene leave statistics in an .aux.xml beside it. What else it may
    # state counts by what it does to the pixels; their place and the bands are in every plan.
    stated = (dataset.nodatavals, dataset.mask_flag_enums, dataset.colorinterp)
    values, palette = dataset.tags().get("NODATA_VALUES"), _palette(dataset)
    facts = repr((stated, values, None if palette is None else palette.tolist()))
    paths = [Path(name) for name in dataset.files if not name.endswith(".aux.xml")]
    stats = [path.stat() for path in paths if path.is_file()]
    if stats and not target.is_remote:
        newest, size = max(stat.st_mtime_ns for stat in stats), sum(stat.st_size for stat in stats)
        return f"{newest}-{size}-{_digest(facts)[:8]}"
    if tag := http_tag(target):
        return tag
    # Object stores hide their tags behind GDAL: what it says about the content stands in.
    facts = repr((dataset.profile, dataset.tags(), dataset.tags(1), dataset.overviews(1)))
    return f"described-{_digest(facts)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
