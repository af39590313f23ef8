"""GeoPackage, FlatGeobuf and GeoParquet, in the scene's own CRS.

Features are appended batch by batch to a GeoPackage. FlatGeobuf cannot be appended to, because its
index comes first: a layer that fits in memory is written at once, of a larger one GDAL streams it
from such a GeoPackage. GeoParquet is written by pyarrow, a row group a batch; its metadata sum up
the whole file and come last by design of the format.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
import threading
import warnings
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyogrio
import pyogrio.raw
import pyproj
import shapely
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError, FieldError

from tilingseg.errors import DependencyError, OutputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from tilingseg.features.layer import Batch, Layer

_SAME_DATE = "1970-01-01T00:00:00.000Z"
_HELD_CORNERS = 4_000_000
"""Of the features that a FlatGeobuf file is written from at once: some 150 MB with their WKB."""
_BOX = ("xmin", "ymin", "xmax", "ymax")
_TYPE_NAMES = {
    shapely.GeometryType.POLYGON: "Polygon",
    shapely.GeometryType.MULTIPOLYGON: "MultiPolygon",
    shapely.GeometryType.LINESTRING: "LineString",
}
"""As GeoParquet spells them."""
_RESERVED = ("gpkg", "sqlite_")
"""No table of a GeoPackage may have a name that begins so."""
_gdal_lock = threading.Lock()


def write_geopackage(
    batches: Iterable[Batch], path: Path, layer: Layer, *, is_scratch: bool = False
) -> int:
    """Write a GeoPackage with one layer.

    Args:
        batches: what to write.
        path: file to create; its suffix must be .gpkg.
        layer: name, geometry type and CRS.
        is_scratch: it will be read once, from end to end: it needs no index.

    Returns:
        Features written.

    Raises:
        OutputError: GDAL cannot write the file.
    """
    n_written = 0
    for index, batch in enumerate(batches):
        with _gdal(path):
            _append(batch, path, layer, is_first=index == 0, is_indexed=not is_scratch)
        n_written += len(batch.geometries)
    _verify(path, layer, n_written, is_indexed=not is_scratch)
    return n_written


def write_flatgeobuf(batches: Iterable[Batch], path: Path, layer: Layer) -> int:
    """Write a FlatGeobuf file; as `write_geopackage`, of which one may be left beside `path`."""
    batches = iter(batches)
    held: list[Batch] = []
    n_corners = 0
    while n_corners <= _HELD_CORNERS and (batch := next(batches, None)) is not None:
        held.append(replace(batch, lonlat=None))
        n_corners += int(shapely.get_num_coordinates(batch.geometries).sum())
    if n_corners <= _HELD_CORNERS:
        whole = _joined(held)
        with _gdal(path):
            _write(whole, path, layer, driver="FlatGeobuf")
        n_written = len(whole.geometries)
    else:
        scratch = path.with_suffix(".gpkg")
        n_written = write_geopackage(
            itertools.chain(held, batches), scratch, layer, is_scratch=True
        )
        with _gdal(path), pyogrio.open_arrow(scratch, use_pyarrow=False) as (meta, stream):
            pyogrio.write_arrow(
                stream,
                path,
                driver="FlatGeobuf",
                layer=_table_of(layer),
                crs=_wkt(layer),
                geometry_type=layer.geometry_type,
                geometry_name=meta["geometry_name"],
            )
    if n_written:
        with _gdal(path):  # a disk that was full when GDAL closed the file: the end is missing
            pyogrio.raw.read(path, columns=[], fids=[n_written - 1])
    return n_written


def _joined(batches: list[Batch]) -> Batch:
    """Return one batch of all features of several."""
    return replace(
        batches[0],
        geometries=np.concatenate([batch.geometries for batch in batches]),
        columns={
            name: np.concatenate([batch.columns[name] for batch in batches])
            for name in batches[0].columns
        },
    )


def _append(batch: Batch, path: Path, layer: Layer, *, is_first: bool, is_indexed: bool) -> None:
    _write(
        batch,
        path,
        layer,
        driver="GPKG",
        append=not is_first,
        # What every GDAL since 2.2 reads without a warning; nothing newer is used.
        dataset_options={"VERSION": "1.2"} if is_first else None,
        layer_options={"SPATIAL_INDEX": is_indexed} if is_first else None,
    )


def _write(batch: Batch, path: Path, layer: Layer, **options: Any) -> None:
    pyogrio.raw.write(
        path,
        shapely.to_wkb(batch.geometries),
        list(batch.columns.values()),
        list(batch.columns),
        layer=_table_of(layer),
        geometry_type=layer.geometry_type,
        crs=_wkt(layer),
        **options,
    )


def write_geoparquet(batches: Iterable[Batch], path: Path, layer: Layer) -> int:
    """Write GeoParquet 1.1 with a bounding box a row, compressed with zstd; as `write_geopackage`.

    Raises:
        DependencyError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DependencyError(
            "GeoParquet needs pyarrow: pip install 'tilingseg[parquet]', or choose another format"
        ) from error
    batches = iter(batches)
    first = next(batches)
    schema = _arrow_table(pa, first).schema
    extent = np.array([np.inf, np.inf, -np.inf, -np.inf])
    types: set[int] = set()
    n_written = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in itertools.chain([first], batches):
            writer.write_table(_arrow_table(pa, batch).cast(schema))
            bounds = np.vstack([extent, shapely.bounds(batch.geometries)])
            extent = np.concatenate([bounds[:, :2].min(axis=0), bounds[:, 2:].max(axis=0)])
            types.update(shapely.get_type_id(batch.geometries).tolist())
            n_written += len(batch.geometries)
        writer.add_key_value_metadata({"geo": _geo_metadata(layer, extent, types)})
    return n_written


def _arrow_table(pa: Any, batch: Batch) -> Any:
    """Return a batch as an Arrow table with WKB and bounding boxes."""
    corners = shapely.bounds(batch.geometries).T
    columns = {
        name: pa.array(
            values, pa.string() if values.dtype == np.object_ else None, from_pandas=True
        )
        for name, values in batch.columns.items()
    }
    columns["geometry"] = pa.array(shapely.to_wkb(batch.geometries), pa.binary())
    columns["bbox"] = pa.StructArray.from_arrays(list(map(pa.array, corners)), list(_BOX))
    return pa.table(columns)


def _geo_metadata(layer: Layer, extent: NDArray[np.float64], types: set[int]) -> str:
    """Return the JSON of the `geo` key that makes a Parquet file GeoParquet."""
    crs = layer.georef.crs
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": sorted(_TYPE_NAMES[shapely.GeometryType(kind)] for kind in types),
        "crs": None if crs is None else pyproj.CRS.from_user_input(crs).to_json_dict(),
        "covering": {"bbox": {name: ["bbox", name] for name in _BOX}},
    }
    if types:
        column["bbox"] = extent.tolist()
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    return json.dumps(geo, separators=(",", ":"))


def _table_of(layer: Layer) -> str:
    """Return the name of the layer inside a file."""
    return f"layer_{layer.name}" if layer.name.lower().startswith(_RESERVED) else layer.name


def _verify(path: Path, layer: Layer, n_features: int, *, is_indexed: bool) -> None:
    """See that features and index are there: what fails while GDAL closes a file, it only logs."""
    table = _table_of(layer)
    names = (table, f"rtree_{table}_geom") if is_indexed else (table,)
    tables = [name.replace('"', '""') for name in names]
    try:
        with closing(sqlite3.connect(path)) as database:
            counts = [
                database.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0]
                for table in tables
            ]
    except sqlite3.Error as error:
        raise OutputError(f"cannot write {path}: {error}; is the disk full?") from error
    if set(counts) != {n_features}:
        raise OutputError(f"cannot write {path}: features are missing; is the disk full?")


@contextmanager
def _gdal(path: Path) -> Iterator[None]:
    """Let GDAL write the same bytes each time, and turn its errors into ours."""
    before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    with _gdal_lock, warnings.catch_warnings():
        # Pixel coordinates have no CRS, and that is meant.
        warnings.filterwarnings("ignore", message="'crs' was not provided")
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": _SAME_DATE})
        try:
            yield
        except (DataSourceError, DataLayerError, FeatureError, FieldError) as error:
            raise OutputError(f"cannot write {path}: {' '.join(str(error).split())}") from error
        finally:
            pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": before})


def _wkt(layer: Layer) -> str | None:
    return (
        None if layer.georef.crs is None else pyproj.CRS.from_user_input(layer.georef.crs).to_wkt()
    )
