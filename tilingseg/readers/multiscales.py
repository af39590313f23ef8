"""Multiscale metadata of Zarr groups: OME-NGFF 0.1 to 0.5, and the `multiscales` of GeoZarr.

Only dictionaries are read here. NGFF places pixel centres: a level with a translation of its own
lies where that says. Many writers leave it out although their levels share the outer edge of the
picture; a level without one is taken so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tilingseg.errors import SceneError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledArray:
    """One level: where its array or group is, and its pixel grid."""

    path: str
    """Relative to the group."""
    scale: tuple[float, ...] | None = None
    """Size of a pixel along each axis; None: known from its shape alone."""
    translation: tuple[float, ...] | None = None
    """Centre of the first pixel along each axis; None: not stated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Multiscales:
    """A pyramid, finest level first."""

    levels: tuple[ScaledArray, ...]
    """At least one."""
    axes: tuple[str, ...] | None = None
    """Names of the axes of every array; None: the arrays tell."""
    units: tuple[str, ...] = ()
    """Unit of each axis, empty where none is stated."""
    channels: tuple[str, ...] = ()
    """Labels of the channels, empty where none are stated."""
    averaged: bool = True
    """Coarser pixels are averages of finer ones, not a choice among them."""


def parse_multiscales(attributes: Mapping[str, Any], uri: str) -> Multiscales | None:
    """Find a pyramid in the attributes of a group.

    Args:
        attributes: of the group, as JSON types.
        uri: the scene, for messages.

    Returns:
        None where the group holds no pyramid.

    Raises:
        SceneError: there is one, but it is not understood.
    """
    block = attributes.get("ome", attributes)
    found = block.get("multiscales") if isinstance(block, dict) else None
    try:
        if isinstance(found, list) and found:
            return _ngff(found[0], block)
        if isinstance(found, dict) and found.get("layout"):
            return _geozarr(found)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise SceneError(
            f"{uri}: its multiscales metadata is not understood ({type(error).__name__}: {error}); "
            "name the array to read, such as scene.zarr/0"
        ) from error
    return None


def is_collection(attributes: Mapping[str, Any]) -> str | None:
    """Return what a group of several images calls itself, such as a plate; None: it is none."""
    block = attributes.get("ome", attributes)
    for kind in ("plate", "well", "labels"):
        if isinstance(block, dict) and kind in block:
            return kind
    return None


def _ngff(pyramid: Mapping[str, Any], block: Mapping[str, Any]) -> Multiscales:
    # 0.4 and later: objects; 0.3: names; before that always t, c, z, y, x.
    axes = pyramid.get("axes") or ["t", "c", "z", "y", "x"]
    names = tuple(axis["name"] if isinstance(axis, dict) else str(axis) for axis in axes)
    units = tuple(axis.get("unit") or "" if isinstance(axis, dict) else "" for axis in axes)
    shared, _ = _transformed(pyramid, None, None, len(names))
    levels = []
    for dataset in pyramid["datasets"]:
        scale, translation = _transformed(dataset, None, None, len(names))
        if scale is not None and shared is not None:
            scale = tuple(a * b for a, b in zip(scale, shared, strict=True))
            translation = translation and tuple(
                a * b for a, b in zip(translation, shared, strict=True)
            )
        levels.append(ScaledArray(path=str(dataset["path"]), scale=scale, translation=translation))
    labels = [channel.get("label") or "" for channel in block.get("omero", {}).get("channels", [])]
    return Multiscales(
        levels=(levels[0], *levels[1:]),
        axes=names,
        units=units,
        channels=tuple(labels),
        averaged=_averages(pyramid.get("type")),
    )


def _transformed(
    holder: Mapping[str, Any],
    scale: tuple[float, ...] | None,
    translation: tuple[float, ...] | None,
    n_axes: int,
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    for step in holder.get("coordinateTransformations") or ():
        if step["type"] == "scale":
            scale = tuple(float(value) for value in step["scale"])
        elif step["type"] == "translation":
            translation = tuple(float(value) for value in step["translation"])
    for values in (scale, translation):
        if values is not None and len(values) != n_axes:
            raise ValueError(f"{len(values)} values for {n_axes} axes")
    if scale is not None and not min(scale) > 0:
        raise ValueError(f"scale {scale} is not above 0")
    return scale, translation


def _geozarr(pyramid: Mapping[str, Any]) -> Multiscales:
    levels = [ScaledArray(path=str(level["asset"])) for level in pyramid["layout"]]
    return Multiscales(
        levels=(levels[0], *levels[1:]), averaged=_averages(pyramid.get("resampling_method"))
    )


def _averages(method: Any) -> bool:
    return not isinstance(method, str) or not {"nearest", "mode"} & set(method.lower().split("_"))
