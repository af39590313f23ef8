"""What a reader needs from a file format: options in, pixel levels out.

A `PixelSource` knows one format and hands over pixels of the file's own grid. It does not resample:
that is done once for all formats in `raster`, so that a GeoTIFF and a Zarr of the same pixels give
the same bits.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tilingseg.errors import SceneError
from tilingseg.places import safe_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilingseg.grid import Window
    from tilingseg.records import Band, Georef


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """What the caller asks of a scene."""

    bands: tuple[int, ...] | None = None
    """Bands to read, from 1, in this order; an index may repeat. None: by `band_names`."""
    band_names: tuple[str, ...] | None = None
    """Names that the model wants, such as red, green, blue; None: every band but alpha."""
    gsd_m: float | None = None
    """Ground pixel size of the grid to deliver, metres; None: the file's own."""
    pixel_m: float | None = None
    """Ground or physical pixel size of the file, metres, where the file is silent or wrong."""
    selectors: tuple[tuple[str, int], ...] = ()
    """(axis name, index) pairs for axes that are neither bands nor y nor x, such as ("t", 0)."""

    def __post_init__(self) -> None:
        """Refuse values that no scene can meet.

        Raises:
            SceneError: naming the option, its value and what it must be.
        """
        if self.bands is not None and (not self.bands or min(self.bands) < 1):
            raise SceneError(f"bands are counted from 1, got {list(self.bands)}")
        if self.bands and self.band_names and len(self.bands) != len(self.band_names):
            raise SceneError(
                f"{len(self.bands)} bands were chosen ({_listed(self.bands)}), but the model needs "
                f"{len(self.band_names)} ({', '.join(self.band_names)})"
            )
        for value in (self.gsd_m, self.pixel_m):
            if value is not None and not 0 < value < float("inf"):
                raise SceneError(f"a pixel size is a number of metres above 0, not {value:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One copy of the scene at some resolution; level 0 is the file's full resolution."""

    height: int
    """Rows, px."""
    width: int
    """Columns, px."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Level 0 pixels for one pixel of this level, along (rows, columns)."""
    offset: tuple[float, float] = (0.0, 0.0)
    """Where this level's first pixel edge lies, in level 0 pixels, along (rows, columns)."""
    averaged: bool = True
    """Its pixels are averages of level 0 pixels, not a choice among them, as far as is known."""
    shows_specks: bool = False
    """It is known to hold data wherever a single one of its level 0 pixels does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceInfo:
    """What a file says about itself, once the bands are chosen."""

    uri: str
    """Where it was opened: a path or URL."""
    name: str
    """Stem of the file."""
    revision: str
    """Changes when the content behind the uri changes."""
    bands: tuple[Band, ...]
    """The bands that are read, in this order."""
    dtype: str
    """NumPy name of the data type that is delivered."""
    georef: Georef
    """Where the pixels of level 0 lie."""
    levels: tuple[Level, ...]
    """Level 0 and its reduced copies, finest first."""
    averages_skip_nan: bool = False
    """NaN is declared as nodata, so that what made the levels left it out of their averages."""
    notes: tuple[str, ...] = ()
    """Decisions taken while the file was opened."""


class PixelSource(Protocol):
    """Pixels of one file, as stored. Thread-safe and picklable."""

    @property
    def info(self) -> SourceInfo:
        """What is open."""

    def read(
        self, level: int, window: Window, *, in_part: bool = False
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read one window of one level.

        Args:
            level: index into `info.levels`.
            window: pixels of that level, wholly inside it.
            in_part: call pixels valid that alpha says are full to less than half.

        Returns:
            pixels: `info.dtype` (bands, height, width); undefined where not valid.
            valid: bool (height, width), True = every band holds data.

        Raises:
            SceneError: the window cannot be read.
        """

    def close(self) -> None:
        """Release every handle; reading afterwards opens new ones."""


def delivered_dtype(stored: str, uri: str) -> str:
    """Return the data type that a stored one is delivered as: uint8, uint16, int16 or float32.

    Args:
        stored: NumPy name of the stored type.
        uri: the scene, for the message.

    Raises:
        SceneError: the type has no order of its own, such as a complex one.
    """
    if stored in ("uint8", "uint16", "int16", "float32"):
        return stored
    converted = {"bool": "uint8", "int8": "int16"}
    if stored in converted:
        return converted[stored]
    if stored in ("uint32", "int32", "uint64", "int64", "float16", "float64"):
        return "float32"
    raise SceneError(
        f"{uri} holds {stored} values, which a network cannot take; convert them to uint8, uint16, "
        "int16 or float32 (for complex radar data: the amplitude)"
    )


def as_delivered(data: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Convert stored pixels, of any real type, to the type that `delivered_dtype` names."""
    # Nodata values of double precision, such as −1.8e308, overflow; those pixels are not valid.
    with np.errstate(over="ignore"):
        return data.astype(dtype, copy=False)


def scene_name(uri: str) -> str:
    """Return the stem of a path or URL: `scene` for `https://host/a/scene.ome.tif?key=1`."""
    path = re.split(r"[?#]", uri, maxsplit=1)[0] if "://" in uri else uri
    stem = PurePosixPath(path.replace("\\", "/").rstrip("/")).name.replace('"', "")
    stem = stem[:-4] if stem.lower().endswith(".zarr.zip") else stem
    stem = PurePosixPath(stem).stem
    stem = stem[:-4] if stem.lower().endswith(".ome") else stem
    return safe_name(stem).strip("_.") or "scene"


def _listed(numbers: tuple[int, ...]) -> str:
    return ",".join(str(number) for number in numbers)
