"""GeoJSON texts: RFC 7946 for scenes on the map, the QuPath profile for scenes of pixels.

RFC 7946 knows longitude and latitude on WGS84 and nothing else. A scene without a CRS has neither;
its vectors follow what QuPath reads: full-resolution pixels, a UUID for each object, and
`objectType`, `classification` and `measurements` inside `properties`.
"""

from __future__ import annotations

import json
import math
import uuid
from typing import TYPE_CHECKING, Any

import shapely
import shapely.geometry

from tilingseg.features.lonlat import DECIMALS, inside_the_world, round_coordinates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TextIO

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from tilingseg.features.layer import Batch, Layer

PIXEL_DECIMALS = 2
"""Decimals of pixel coordinates, as QuPath writes them."""
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "tilingseg")


def write_collection(batches: Iterable[Batch], file: TextIO, layer: Layer) -> tuple[int, int]:
    """Write a FeatureCollection, one feature a line.

    Args:
        batches: what to write.
        file: open for UTF-8 text.
        layer: name and colour.

    Returns:
        How many features were written, and how many are too small for the rounded coordinates.
    """
    file.write('{"type":"FeatureCollection","features":[')
    n_written, n_vanished = _write(
        _texts(batches, layer), lambda n, text: file.write(f"{',' if n else ''}\n{text}")
    )
    file.write("\n]}\n")
    return n_written, n_vanished


def write_sequence(batches: Iterable[Batch], file: TextIO, layer: Layer) -> tuple[int, int]:
    """Write newline-delimited features; as `write_collection`."""
    n_written, n_vanished = _write(_texts(batches, layer), lambda _, text: file.write(f"{text}\n"))
    if not n_written:
        # RFC 8142 allows any GeoJSON text; in a file of no bytes GDAL and QGIS see no format.
        file.write('{"type":"FeatureCollection","features":[]}\n')
    return n_written, n_vanished


def _write(texts: Iterable[str | None], put: Callable[[int, str], Any]) -> tuple[int, int]:
    n_written = n_vanished = 0
    for text in texts:
        if text is None:
            n_vanished += 1
        else:
            put(n_written, text)
            n_written += 1
    return n_written, n_vanished


def _texts(batches: Iterable[Batch], layer: Layer) -> Iterator[str | None]:
    """Yield the JSON of each feature; None for one that vanishes when it is rounded."""
    for batch in batches:
        if batch.lonlat is None:
            rounded, there = round_coordinates(batch.geometries, PIXEL_DECIMALS)
        else:
            rounded, there = round_coordinates(inside_the_world(batch.lonlat), DECIMALS)
        names = list(batch.columns)
        rows = zip(*map(_json_values, batch.columns.values()), strict=True)
        for geometry, is_there, row in zip(rounded, there.tolist(), rows, strict=True):
            if not is_there:
                yield None
                continue
            attributes = dict(zip(names, row, strict=True))
            shape = shapely.geometry.mapping(geometry)
            if batch.lonlat is None:
                identity: str | int = _uuid(layer, attributes["class"], geometry)
                attributes = _qupath_properties(attributes, layer)
            else:
                identity = attributes["id"]
            yield json.dumps(
                {"type": "Feature", "id": identity, "geometry": shape, "properties": attributes},
                ensure_ascii=False,
                allow_nan=False,
                separators=(",", ":"),
            )


def _json_values(column: NDArray[Any]) -> list[Any]:
    """Return a column as JSON types; numbers that are not known become None."""
    values: list[Any] = column.tolist()
    return [None if isinstance(value, float) and math.isnan(value) else value for value in values]


def _uuid(layer: Layer, class_name: str, geometry: BaseGeometry) -> str:
    # From the content, so that an object keeps its id when others are filtered out or found.
    return str(uuid.uuid5(_NAMESPACE, f"{layer.name}\n{class_name}\n{geometry.wkb_hex}"))


def _qupath_properties(attributes: dict[str, Any], layer: Layer) -> dict[str, Any]:
    measurements = {
        name: value
        for name, value in attributes.items()
        if isinstance(value, (int, float)) and name != "id"
    }
    others = {
        name: value
        for name, value in attributes.items()
        if name not in measurements and name not in ("id", "uid", "class") and value is not None
    }
    return {
        # Detections, not annotations: QuPath handles them by the million.
        "objectType": "detection",
        "classification": {"name": attributes["class"], "color": list(layer.color)},
        "measurements": measurements,
        **others,
    }
