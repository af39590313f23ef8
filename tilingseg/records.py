"""What crosses the borders between stages: records, and the contract of a reader.

Records are frozen, hashable and picklable: a CRS travels as text, an affine transform as six
numbers. A record that holds arrays compares by identity. Nothing here opens a file.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from shapely import Polygon
    from shapely.geometry.base import BaseGeometry
    from torch import Tensor

    from tilingseg.grid import Tile, Window

BACKGROUND = 0
"""Mask value of a valid pixel that belongs to no class; class k of a model is mask value k + 1."""
NODATA = 255
"""Mask value of a pixel that holds no data or lies outside the area of interest."""

Affine6 = tuple[float, float, float, float, float, float]
IDENTITY: Affine6 = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
"""Transform of pixels that stay where they are: x = column, y = row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """One band that a reader delivers."""

    index: int
    """Position in the file, from 1."""
    name: str
    """Colour or description from the file, lower case (`red`, `nir`), or `band 3`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Georef:
    """Where the pixels of a raster lie, on the map and on the ground."""

    crs: str | None
    """`EPSG:32633` where an authority knows it, WKT otherwise; None: pixel coordinates only."""
    transform: Affine6
    """a, b, c, d, e, f with x = a·col + b·row + c and y = d·col + e·row + f; pixel corner → CRS."""
    pixel_m: tuple[float, float] | None
    """Metres on the ground of one step along a row (x) and along a column (y), at the centre of
    the raster; None: not known. Physical size for microscopy, where there is no ground."""
    in_file: Affine6 = IDENTITY
    """Pixel corner → pixels of the file that is read at another pixel size; of a result that a run
    has written, of the file of its scene."""

    @property
    def pixel_m2(self) -> float:
        """Area of a pixel at the centre, m²; 1 where it is not known, and areas are in px²."""
        x_m, y_m = self.pixel_m or (1.0, 1.0)
        return x_m * y_m

    @property
    def gsd_m(self) -> float | None:
        """Ground sample distance, metres a pixel, mean of both axes."""
        return None if self.pixel_m is None else (self.pixel_m[0] + self.pixel_m[1]) / 2

    @property
    def to_coordinates(self) -> Affine6:
        """Pixel corner → the coordinates of vectors and areas: of the CRS, or pixels of the file.

        A transform without a CRS, such as that of a world file, leads to coordinates that nobody
        can name.
        """
        return self.in_file if self.crs is None else self.transform


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One raster on the pixel grid that the model sees, after any resampling."""

    uri: str
    """Where it was opened: a path or URL."""
    name: str
    """Stem of the file, the prefix of every output name."""
    revision: str
    """Changes when the content behind the uri changes: size and time of change, or an ETag."""
    height: int
    """Rows, px."""
    width: int
    """Columns, px."""
    bands: tuple[Band, ...]
    """The bands that are read, in this order; an index may repeat."""
    dtype: str
    """NumPy name of the stored data type."""
    georef: Georef
    """Where the pixels of this grid lie."""
    source: Georef
    """Where the file's own pixels lie, before resampling."""
    source_shape: tuple[int, int]
    """(height, width) of the file's own grid, px."""
    notes: tuple[str, ...] = ()
    """Decisions that the reader took and the user should know, one sentence each."""


class SceneReader(Protocol):
    """An open scene. Every implementation passes `SceneReaderContract` in the tests.

    Thread-safe: `read` may be called from several threads at once. Picklable: a copy opens its own
    handles on first use.
    """

    @property
    def scene(self) -> Scene:
        """What is open."""

    def read(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read one window at full resolution.

        The result depends on the pixels alone, never on which windows were read before or on where
        this one is cut (no seams from resampling).

        Args:
            window: pixels of `scene`, wholly inside it.

        Returns:
            pixels: (bands, height, width) in the stored dtype; undefined where not valid.
            valid: bool (height, width), True = every selected band holds data. Alpha, mask bands,
                nodata tags and NaN are all honoured.

        Raises:
            SceneError: the window is outside the scene or cannot be read.
        """

    def may_hold_data(self, window: Window) -> bool:
        """Tell whether a window may hold a valid pixel, from overviews alone.

        Args:
            window: pixels of `scene`; it may reach beyond.

        Returns:
            False: it is not worth reading. True where the scene has no overview that tells.
        """

    def read_reduced(self, max_side_px: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read the whole scene, reduced so that its longer side is at most `max_side_px`.

        Uses overviews where the file has them; for statistics and previews.

        Returns:
            As `read`, with the reduced height and width (each at least 1).
        """

    def close(self) -> None:
        """Release every handle; reading afterwards opens new ones."""


class MaskReader(Protocol):
    """A class mask that can be read by window: a work store or a mask raster. Thread-safe."""

    @property
    def height(self) -> int:
        """Rows, px."""

    @property
    def width(self) -> int:
        """Columns, px."""

    @property
    def georef(self) -> Georef:
        """Where the pixels lie."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; class k is mask value k + 1."""

    def read_mask(self, window: Window) -> NDArray[np.uint8]:
        """Return uint8 (height, width): `BACKGROUND`, class values from 1, `NODATA`."""

    def read_probability(self, class_index: int, window: Window) -> NDArray[np.uint8] | None:
        """Return the class's probability, uint8 (height, width), 255 = 1; None: not kept."""


class MaskView:
    """A `MaskReader` that passes on what another one says; subclasses change a part of it."""

    def __init__(self, mask: MaskReader) -> None:
        """Look at `mask`."""
        self._mask = mask

    @property
    def height(self) -> int:
        """Rows, px."""
        return self._mask.height

    @property
    def width(self) -> int:
        """Columns, px."""
        return self._mask.width

    @property
    def georef(self) -> Georef:
        """Where the pixels lie."""
        return self._mask.georef

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; class k is mask value k + 1."""
        return self._mask.classes

    def read_mask(self, window: Window) -> NDArray[np.uint8]:
        """Return uint8 (height, width): `BACKGROUND`, class values from 1, `NODATA`."""
        return self._mask.read_mask(window)

    def read_probability(self, class_index: int, window: Window) -> NDArray[np.uint8] | None:
        """Return the class's probability, uint8 (height, width), 255 = 1; None: not kept."""
        return self._mask.read_probability(class_index, window)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shape:
    """One connected piece of a mask, traced along its pixel edges."""

    value: int
    """Mask value."""
    polygon: Polygon
    """Valid polygon with holes in pixel coordinates: x = column, y = row, pixel corners on
    integers, so that the area is the number of pixels."""
    confidence: float | None
    """Mean probability of its pixels, 0…1; None: not known."""
    last: int = 0
    """Its last pixel, row-major in rows of the scene's width + 1 px: the order of shapes."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Feature:
    """One vector object on its way to a file."""

    class_name: str
    """Class that it belongs to."""
    geometry: BaseGeometry
    """Polygon, MultiPolygon or LineString in pixel coordinates: x = column, y = row."""
    confidence: float | None
    """Mean probability, 0…1; None: not known."""
    properties: tuple[tuple[str, float | int | str | None], ...] = ()
    """Further (name, value) attributes, such as width_m; the same names for all of one layer."""
    last: int = 0
    """That of the shape it was made from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """How stored values become the 0…1 that the model's normalisation expects; one per scene."""

    low: tuple[float, ...]
    """Stored value that becomes 0, per band."""
    high: tuple[float, ...]
    """Stored value that becomes 1, per band."""
    source: str
    """Where the numbers come from, in words for the report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """The unit of work, of checkpoints and of distribution: a block of whole tile cores."""

    index: int
    """Position in row-major order."""
    core: Window
    """Pixels that this region alone writes: a whole number of store chunks, but at the edges."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prediction:
    """What one tile gave."""

    tile: Tile
    """Which tile."""
    window: Window
    """The part of the tile that it gives, inside the scene."""
    probability: Tensor | None
    """float32 (classes, height, width) in 0…1, as large as `window`; None: the tile was skipped."""
    valid: NDArray[np.bool_]
    """bool (height, width), as large as `window`; True: data, and inside the area of interest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionReport:
    """What happened in one region; its JSON is the region's completion record."""

    index: int
    """The region's index."""
    n_tiles: int
    """Tiles inferred."""
    n_tiles_nodata: int
    """Tiles left out because no pixel under their core is valid."""
    n_tiles_outside: int
    """Tiles left out because their core lies outside the area of interest."""
    n_pixels_valid: int
    """Valid pixels of the core, which got a class or background."""
    seconds: tuple[tuple[str, float], ...] = ()
    """(stage, seconds) pairs: read, idle, upload, forward, stitch, write; see `infer.tally`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """What one run did. `run.json` is this record with the plan beside it."""

    scene: str
    """Uri of the scene."""
    outputs: tuple[tuple[str, str], ...]
    """(kind, path) pairs of the files that were written."""
    n_tiles: int
    """Tiles inferred."""
    n_tiles_nodata: int
    """Tiles left out: no valid pixel."""
    n_tiles_outside: int
    """Tiles left out: outside the area of interest."""
    n_regions_resumed: int
    """Regions taken over from an earlier, interrupted run."""
    n_pixels_valid: int
    """Pixels that got a class or background."""
    n_pixels_nodata: int
    """Pixels of the output that hold nodata."""
    n_features: tuple[tuple[str, int], ...]
    """(class name, polygons written) pairs."""
    left_out: tuple[tuple[str, int], ...] = ()
    """(what and why, count) pairs of everything else that was left out."""
    notes: tuple[str, ...] = ()
    """Decisions taken for the user, one sentence each."""
    seconds: tuple[tuple[str, float], ...] = field(default=(), compare=False)
    """(stage, seconds) pairs."""


def to_json(record: Any) -> Any:
    """Turn a record into JSON types: records become objects, tuples become arrays."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {f.name: to_json(getattr(record, f.name)) for f in dataclasses.fields(record)}
    if isinstance(record, tuple):
        return [to_json(item) for item in record]
    return record


def tuples(value: Any) -> Any:
    """Turn JSON arrays into tuples, at every depth: the way back from `to_json` for fields."""
    return tuple(tuples(item) for item in value) if isinstance(value, list) else value


def describe_changes(before: Any, after: Any, path: str = "") -> list[str]:
    """List the differences between two records as JSON, `name: old → new`, deepest names first."""
    if isinstance(before, dict) and isinstance(after, dict):
        changes: list[str] = []
        for key in sorted(before.keys() | after.keys()):
            name = f"{path}.{key}" if path else key
            changes += describe_changes(before.get(key), after.get(key), name)
        return changes
    if before == after:
        return []
    return [f"{path}: {_short(before)} → {_short(after)}"]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "…"
