"""Vectors as files: attributes, coordinates and formats.

    features in pixels ─ measure ─▶ batches with attributes
        ─ lonlat, geojson ─▶ .geojson, .geojsonl    WGS84, RFC 7946; QuPath profile without a CRS
        ─ tables ─▶ .gpkg, .fgb, .parquet           the scene's own CRS
    style ─▶ .qml beside them

Features are streamed: the memory holds one batch of them. The same features give the same bytes.
Files appear whole: they are written under another name, flushed to disk and renamed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilingseg.atomic import whole, write_whole
from tilingseg.errors import OutputError
from tilingseg.features.geojson import write_collection, write_sequence
from tilingseg.features.layer import Layer, Written
from tilingseg.features.measure import measure
from tilingseg.features.style import qgis_style

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from tilingseg.records import Feature

__all__ = ["SUFFIXES", "Layer", "Written", "write_features", "write_style"]

_TEXTS = {".geojson": write_collection, ".geojsonl": write_sequence}
_TABLES = (".gpkg", ".fgb", ".parquet")
SUFFIXES = (*_TEXTS, *_TABLES)
"""Suffixes of the files that can be written."""


def write_features(features: Iterable[Feature], path: Path, layer: Layer) -> Written:
    """Write features to a file; its suffix decides on the format.

    Args:
        features: in pixel coordinates; read once, in order.
        path: file to write, with one of `SUFFIXES`; an existing one is replaced when the new one
            is whole.
        layer: name, georeference, geometry type, colour.

    Returns:
        How many features the file holds, and how many it could not hold and why.

    Raises:
        OutputError: the suffix is none of these, or the file cannot be written.
        DependencyError: the format needs a package that is not installed.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise OutputError(f"cannot write {path}: its suffix is none of {', '.join(SUFFIXES)}")
    with whole(path) as part:
        batches = measure(features, layer)
        if suffix in _TABLES:
            return Written(n_features=_table_writer(suffix)(batches, part, layer))
        with part.open("w", encoding="utf-8", newline="\n") as file:
            n_written, n_vanished = _TEXTS[suffix](batches, file, layer)
    reason = "features too small for GeoJSON coordinates or beyond the edge of the projection"
    return Written(n_features=n_written, left_out=((reason, n_vanished),) if n_vanished else ())


def write_style(path: Path, layer: Layer) -> None:
    """Write the QGIS style of a layer.

    Args:
        path: file to write: the name of the vectors, with the suffix .qml.
        layer: colour and geometry type.

    Raises:
        OutputError: the file cannot be written.
    """
    write_whole(path, qgis_style(layer))


def _table_writer(suffix: str) -> Callable[..., int]:
    # Brings pandas along, a quarter of the start of a run that writes GeoJSON alone.
    from tilingseg.features import tables

    return {
        ".gpkg": tables.write_geopackage,
        ".fgb": tables.write_flatgeobuf,
        ".parquet": tables.write_geoparquet,
    }[suffix]
