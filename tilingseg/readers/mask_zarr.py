"""The Zarr result of a run, read back: what `tilingseg vectorize` takes beside raster files.

Such a store holds the mask as the run cut it and, where they were kept, the probabilities that it
was cut from, so that the vectors are those of the run. Both are read as scenes in Zarr are, from
folders, buckets and servers alike. Any other Zarr is left to GDAL.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tilingseg.errors import SceneError
from tilingseg.readers.georef import SCENE_TRANSFORM_TAG, in_scene_pixels
from tilingseg.readers.probability_file import THRESHOLDS_TAG, stated_levels
from tilingseg.readers.source import ReadOptions
from tilingseg.records import NODATA

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import zarr
    from numpy.typing import NDArray

    from tilingseg.grid import Window
    from tilingseg.readers.source import PixelSource
    from tilingseg.readers.zarr_store import ZarrStore, ZarrTarget
    from tilingseg.records import Georef

_ATTRIBUTE = "tilingseg"
"""Of the group: names of the classes, and the facts that raster files have as tags."""


def open_zarr_mask(uri: str | os.PathLike[str], *, pixel_m: float | None = None) -> ZarrMask | None:
    """Open the class mask and the probabilities of a run.

    Args:
        uri: path or URL of the store.
        pixel_m: ground or physical pixel size, metres, where the store is silent or wrong.

    Returns:
        None where this is no Zarr that a run wrote.

    Raises:
        SceneError: it is one, but cannot be read.
    """
    text = os.fspath(uri)
    if ".zarr" not in text.lower() and not Path(text).is_dir():
        return None  # loading Zarr takes a while
    from tilingseg.readers.zarr import open_zarr
    from tilingseg.readers.zarr_store import ZarrStore, locate_zarr

    target = locate_zarr(text)
    if target is None:
        return None
    store = ZarrStore(target)
    group = _result_group(store, target)
    if group is None:
        return None
    facts = cast("dict[str, Any]", group.attrs[_ATTRIBUTE])
    classes = _classes(text, facts)
    options = ReadOptions(pixel_m=pixel_m)
    mask = "mask" if "mask" in group else ""
    sources = [
        open_zarr(replace(target, inner="/".join(filter(None, (group.path, name)))), options)
        for name in (mask, "probability")
        if name == mask or name in group
    ]
    thresholds = stated_levels(str(facts.get(THRESHOLDS_TAG, "")), len(classes))
    georef = in_scene_pixels(sources[0].info.georef, facts.get(SCENE_TRANSFORM_TAG))
    return ZarrMask(sources, georef, classes, thresholds)


class ZarrMask:
    """A class mask, and its probabilities if they were kept: a `MaskReader`. Thread-safe."""

    def __init__(
        self,
        sources: Sequence[PixelSource],
        georef: Georef,
        classes: tuple[str, ...],
        thresholds: tuple[float, ...],
    ) -> None:
        """Take over open arrays; `open_zarr_mask` is the way to get here."""
        self._mask = sources[0]
        self._probability = sources[1] if len(sources) > 1 else None
        self._georef = georef
        self._classes = classes
        self.thresholds = thresholds
        """Probability from which a pixel belonged to each class."""

    @property
    def height(self) -> int:
        """Rows, px."""
        return self._mask.info.levels[0].height

    @property
    def width(self) -> int:
        """Columns, px."""
        return self._mask.info.levels[0].width

    @property
    def georef(self) -> Georef:
        """Where the pixels lie."""
        return self._georef

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; class k is mask value k + 1."""
        return self._classes

    @property
    def notes(self) -> tuple[str, ...]:
        """Decisions taken while the store was opened: none, a run's own mask leaves none open."""
        return ()

    def read_mask(self, window: Window) -> NDArray[np.uint8]:
        """Return uint8 (height, width): `BACKGROUND`, class values from 1, `NODATA`.

        Raises:
            SceneError: the window cannot be read, or holds a value that is no class.
        """
        labels: NDArray[np.uint8] = self._mask.read(0, window)[0][0]
        unknown = (labels > len(self._classes)) & (labels != NODATA)
        if unknown.any():
            raise SceneError(
                f"{self._mask.info.uri} holds the value {labels[unknown][0]}, but names "
                f"{len(self._classes)} classes"
            )
        return labels

    def read_probability(self, class_index: int, window: Window) -> NDArray[np.uint8] | None:
        """Return the class's probability, uint8 (height, width), 255 = 1; None: not kept.

        Raises:
            SceneError: the window cannot be read.
        """
        if self._probability is None:
            return None
        band: NDArray[np.uint8] = self._probability.read(0, window)[0][class_index]
        return band

    def close(self) -> None:
        """Close the store."""
        self._mask.close()
        if self._probability is not None:
            self._probability.close()


def _result_group(store: ZarrStore, target: ZarrTarget) -> zarr.Group | None:
    """Return the group that a run wrote: at a path, or around the array there."""
    import zarr

    for node in (store.node(target.inner), *store.groups_around(target.inner)[:1]):
        if isinstance(node, zarr.Group) and isinstance(node.attrs.get(_ATTRIBUTE), dict):
            return node
    return None


def _classes(uri: str, facts: dict[str, Any]) -> tuple[str, ...]:
    try:
        names = {int(value): str(name) for value, name in facts["classes"].items()}
    except (KeyError, ValueError, AttributeError) as error:
        raise SceneError(f"{uri}: its attribute {_ATTRIBUTE} names no classes") from error
    if sorted(names) != list(range(len(names))):
        raise SceneError(
            f"{uri}: its attribute {_ATTRIBUTE} names the values {sorted(names)}, not 0, 1, 2, …"
        )
    return tuple(names[value] for value in sorted(names) if value)
