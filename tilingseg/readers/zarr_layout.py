"""What is in a Zarr store, and which of its arrays make up the scene.

A scene is one array; a pyramid (OME-NGFF, GeoZarr); or several arrays of rows and columns alike,
one a band, as xarray and Sentinel-2 products store them.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zarr

from tilingseg.errors import SceneError
from tilingseg.readers.bands import FileBand, choose_bands
from tilingseg.readers.multiscales import Multiscales, is_collection, parse_multiscales
from tilingseg.readers.source import Level, ReadOptions, SourceInfo, delivered_dtype, scene_name
from tilingseg.readers.zarr_axes import axis_roles, dimension_names, fixed_indexes
from tilingseg.readers.zarr_georef import band_names, georeference, nodata_values
from tilingseg.readers.zarr_store import ZarrStore, ZarrTarget

if TYPE_CHECKING:
    from collections.abc import Sequence

_HUGE_CHUNK_BYTES = 256_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ZarrLayout:
    """How to read the chosen bands of a scene in a Zarr store."""

    target: ZarrTarget
    """Where the store is."""
    info: SourceInfo
    """What it says about itself."""
    paths: tuple[tuple[str, ...], ...]
    """Paths of the arrays to fetch for each level: one that holds all bands, or one a band."""
    roles: tuple[str, ...]
    """Meaning of the axes of every array: y, x, band, or the name of another."""
    fixed: tuple[tuple[str, int], ...]
    """(name, index) along the other axes."""
    positions: tuple[int, ...]
    """Bands to fetch from each array, from 0, each once; an alpha band last."""
    order: tuple[int, ...]
    """Position among all that is fetched of each band delivered."""
    has_alpha: bool
    """The last band that is fetched is an alpha band."""
    nodata: tuple[float | None, ...]
    """Nodata value of each band that is fetched but the alpha band; None: it has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """The arrays of a scene, before bands are chosen."""

    paths: tuple[tuple[str, ...], ...]
    pyramid: Multiscales | None = None
    notes: tuple[str, ...] = ()


def describe(target: ZarrTarget, options: ReadOptions) -> ZarrLayout:
    """Look into a store and decide how to read it.

    Raises:
        SceneError: it holds nothing that can be segmented, or not the bands that are wanted.
    """
    uri, store = target.uri, ZarrStore(target)
    found = _find(store, target.inner)
    first = store.array(found.paths[0][0])
    if 0 in first.shape:
        raise SceneError(f"{uri} is empty: its shape is {first.shape}")
    dtype = delivered_dtype(first.dtype.name, uri)
    names = _axis_names(first, found.pyramid, uri)
    roles = axis_roles(names, first.shape, uri)
    fixed = fixed_indexes(roles, first.shape, options, uri)
    available = _file_bands(store, found, first, roles)
    bands, notes = choose_bands(available, options, uri)
    chosen = dict.fromkeys(band.index for band in bands)
    alpha = [band.index for band in available if band.is_alpha and band.index not in chosen][:1]
    fetched = [*chosen, *alpha]
    one_array = len(found.paths[0]) == 1
    paths = (
        found.paths
        if one_array
        else tuple(tuple(level[index - 1] for index in fetched) for level in found.paths)
    )
    kept, levels = _levels(store, paths, roles, found.pyramid)
    georef, remarks = georeference(store, first, names, roles, found.pyramid, options)
    if one_array:
        values = nodata_values(first, len(available))
        nodata = [values[index - 1] for index in chosen]
    else:
        nodata = [nodata_values(store.array(path), 1)[0] for path in paths[0]][: len(chosen)]
    return ZarrLayout(
        target=target,
        info=SourceInfo(
            uri=uri,
            name="_".join([scene_name(target.root), *target.inner.split("/")]).strip("_"),
            revision=_revision(target, first),
            bands=bands,
            dtype=dtype,
            georef=georef,
            levels=levels,
            notes=(*found.notes, *notes, *remarks, *_chunk_notes(first)),
        ),
        paths=kept,
        roles=roles,
        fixed=tuple(sorted(fixed.items())),
        positions=tuple(index - 1 for index in fetched) if one_array else (0,),
        order=tuple(fetched.index(band.index) for band in bands),
        has_alpha=bool(alpha),
        nodata=tuple(nodata),
    )


def _find(store: ZarrStore, path: str) -> _Found:
    """Find the arrays of the scene at a path of the store."""
    node = store.node(path)
    if isinstance(node, zarr.Array):
        return _Found(paths=((path,),))
    attributes: dict[str, Any] = dict(node.attrs)
    pyramid = parse_multiscales(attributes, store.target.uri)
    if pyramid is not None:
        return _Found(paths=_pyramid_paths(store, path, pyramid), pyramid=pyramid)
    if "bioformats2raw.layout" in (attributes.get("ome") or attributes):
        inner = _find(store, _join(path, "0"))
        return _Found(
            paths=inner.paths,
            pyramid=inner.pyramid,
            notes=("The store may hold several images; the first, 0, is read.", *inner.notes),
        )
    arrays, groups = _members(node)
    if kind := is_collection(attributes):
        raise SceneError(_choose(store.target, path, f"is a {kind} of several images", groups))
    rasters = {name: array for name, array in arrays.items() if array.ndim >= 2}
    if len(rasters) == 1 or _alike(list(rasters.values())):
        return _Found(paths=(tuple(_join(path, name) for name in rasters),))
    if rasters:
        raise SceneError(_choose(store.target, path, f"holds {len(rasters)} arrays", list(rasters)))
    if len(groups) == 1:
        return _find(store, _join(path, groups[0]))
    raise SceneError(_choose(store.target, path, "holds no array of rows and columns", groups))


def _pyramid_paths(
    store: ZarrStore, path: str, pyramid: Multiscales
) -> tuple[tuple[str, ...], ...]:
    """Return the arrays of each level; a level may be a group that holds one array a band."""
    levels: list[tuple[str, ...]] = []
    for level in pyramid.levels:
        place = _join(path, level.path)
        node = store.node(place)
        if isinstance(node, zarr.Array):
            levels.append((place,))
            continue
        rasters = {name: array for name, array in _members(node)[0].items() if array.ndim >= 2}
        if not rasters or not (len(rasters) == 1 or _alike(list(rasters.values()))):
            raise SceneError(
                _choose(store.target, place, f"holds {len(rasters)} arrays", list(rasters))
            )
        levels.append(tuple(_join(place, name) for name in rasters))
    return tuple(levels)


def _members(group: zarr.Group) -> tuple[dict[str, zarr.Array[Any]], list[str]]:
    return dict(sorted(group.arrays())), sorted(name for name, _ in group.groups())


def _alike(arrays: Sequence[zarr.Array[Any]]) -> bool:
    """Tell whether arrays can be the bands of one scene."""
    kinds = {(array.shape, array.dtype, dimension_names(array)) for array in arrays}
    return len(kinds) == 1 and arrays[0].ndim == 2


def _choose(target: ZarrTarget, path: str, what: str, names: Sequence[str]) -> str:
    place = _join(target.root, path)
    if not names:
        hint = "; where a server does not list its folders, name the array" * target.is_remote
        return f"{place} {what}{hint}"
    shown = ", ".join(_join(place, name) for name in names[:6]) + (", …" if len(names) > 6 else "")
    return f"{place} {what}; name one of them: {shown}"


def _axis_names(
    array: zarr.Array[Any], pyramid: Multiscales | None, uri: str
) -> tuple[str, ...] | None:
    if pyramid is None or pyramid.axes is None:
        return dimension_names(array)
    if len(pyramid.axes) != array.ndim:
        raise SceneError(
            f"{uri}: its metadata names {len(pyramid.axes)} axes, but its array has {array.ndim}"
        )
    return pyramid.axes


def _file_bands(
    store: ZarrStore, found: _Found, first: zarr.Array[Any], roles: tuple[str, ...]
) -> tuple[FileBand, ...]:
    if len(found.paths[0]) > 1:
        names = [path.rpartition("/")[2] for path in found.paths[0]]
    else:
        count = first.shape[roles.index("band")] if "band" in roles else 1
        channels = found.pyramid.channels if found.pyramid else ()
        known = channels if len(channels) == count else band_names(store, first, roles, count)
        names = [*known, *[""] * count][:count]
    return tuple(
        FileBand(index=index, description=name, is_alpha=name.lower() == "alpha")
        for index, name in enumerate(names, start=1)
    )


def _levels(
    store: ZarrStore,
    paths: tuple[tuple[str, ...], ...],
    roles: tuple[str, ...],
    pyramid: Multiscales | None,
) -> tuple[tuple[tuple[str, ...], ...], tuple[Level, ...]]:
    """Return the levels that can be read, and where each lies over the first."""
    axes = roles.index("y"), roles.index("x")
    full = store.array(paths[0][0]).shape
    kept, levels = [paths[0]], [Level(height=full[axes[0]], width=full[axes[1]])]
    for index, level_paths in enumerate(paths[1:], start=1):
        shape = store.array(level_paths[0]).shape
        if len(shape) != len(full) or len(level_paths) != len(paths[0]):
            continue
        placed = [_placed(pyramid, index, axis, full[axis], shape[axis]) for axis in axes]
        levels.append(
            Level(
                height=shape[axes[0]],
                width=shape[axes[1]],
                scale=(placed[0][0], placed[1][0]),
                offset=(placed[0][1], placed[1][1]),
                averaged=pyramid is None or pyramid.averaged,
            )
        )
        kept.append(level_paths)
    return tuple(kept), tuple(levels)


def _placed(
    pyramid: Multiscales | None, index: int, axis: int, n_full: int, n_level: int
) -> tuple[float, float]:
    """Return (scale, offset) of a level along one axis, in level 0 pixels."""
    first = pyramid.levels[0] if pyramid else None
    level = pyramid.levels[index] if pyramid else None
    if first is None or level is None or first.scale is None or level.scale is None:
        return n_full / n_level, 0.0
    scale = level.scale[axis] / first.scale[axis]
    starts = [item.translation[axis] if item.translation else 0.0 for item in (first, level)]
    if starts[0] == starts[1]:
        return scale, 0.0
    # Translations place pixel centres; levels are compared by their outer edges.
    return scale, (starts[1] - starts[0]) / first.scale[axis] + 0.5 - scale / 2


def _revision(target: ZarrTarget, first: zarr.Array[Any]) -> str:
    """Return what changes with the metadata of a store and the names in its folders.

    Pixels that are rewritten in place go unnoticed: a store may have a million chunks, and asking
    for the time of each would cost more than many a run.
    """
    files = [
        place / name
        for place in (Path(target.root), Path(target.root) / first.path)
        for name in ("zarr.json", ".zarray", ".zgroup", ".zattrs", "")
    ]
    stats = [file.stat() for file in files if not target.is_remote and file.exists()]
    facts = json.dumps([first.shape, str(first.dtype), dict(first.attrs)], default=str)
    digest = hashlib.sha256(facts.encode()).hexdigest()[:16]
    return f"{max((stat.st_mtime_ns for stat in stats), default=0)}-{digest}"


def _chunk_notes(array: zarr.Array[Any]) -> tuple[str, ...]:
    size = math.prod(array.chunks) * array.dtype.itemsize
    if size <= _HUGE_CHUNK_BYTES:
        return ()
    return (
        f"The array is stored in chunks of {size / 1e9:.1f} GB, which must be read whole; "
        "rechunking it to about 1024 × 1024 px makes reading faster and needs less memory.",
    )


def _join(*parts: str) -> str:
    return "/".join(part.rstrip("/") for part in parts if part)
