"""Draw the sample scene and write it, with its truth, next to this file.

    python -m sample_data.make_sample_data [FOLDER]

`draw_scene` also gives training its synthetic scenes. The scene that is shipped is drawn with
`SAMPLE_SEED`, for trying things out and for tests: never train with `SAMPLE_SEED`, use any other.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import shapely
import zarr
from affine import Affine
from rasterio.crs import CRS
from rasterio.io import MemoryFile
from rasterio.shutil import copy
from rasterio.warp import transform_geom
from zarr.codecs import ZstdCodec

from sample_data.layout import lay_out
from sample_data.paint import GSD_M, paint

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from shapely import LineString, Polygon
    from shapely.geometry.base import BaseGeometry

    from sample_data.suburb import Layout

SAMPLE_SEED = 20_250
"""The seed of the shipped scene. Reserved: nothing may be trained on what it draws."""
HEIGHT_PX, WIDTH_PX = 896, 1152
CRS_NAME = "EPSG:32633"
ORIGIN_M = (391_000.0, 5_820_000.0)
"""Upper left corner of the scene, x and y in `CRS_NAME`."""
NODATA = 0
"""Stored in all bands where the flight took no photograph; photographed pixels are never 0."""


def draw_scene(
    seed: int, height: int, width: int, *, dry: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.bool_], list[Polygon], list[Polygon]]:
    """Draw an aerial photograph of an invented suburb, or town on sand, at 0.5 m a pixel.

    The result depends on the arguments alone, on every machine. For training use any seed but
    `SAMPLE_SEED`, which is reserved for the shipped scene. 896 × 1152 px take about 3 s.

    Args:
        seed: integer ≥ 0.
        height: rows, px; at least a few hundred for streets to show.
        width: columns, px.
        dry: a town on sand with halls and malls.

    Returns:
        pixels: uint8 (3, height, width), red, green, blue; 1…255 where valid, 0 elsewhere.
        valid: bool (height, width), True = photographed; one slanted corner is not.
        buildings: footprints in pixel coordinates (x = column, y = row), cut at the edge of the
            photograph; they do not overlap.
        roads: carriageways in pixel coordinates, one or more polygons a road, cut likewise; they
            overlap at junctions.
    """
    layout = lay_out(seed, height, width, dry=dry)
    pixels, valid = photograph(layout, seed)
    edge = _photographed(layout)
    buildings = [part for b in layout.buildings for part in _pieces(b.polygon, edge)]
    roads = [part for road in layout.roads for part in _pieces(road.polygon, edge)]
    return pixels, valid, buildings, roads


def photograph(layout: Layout, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Paint a layout and cut off what the flight did not see.

    Returns:
        pixels: uint8 (3, height, width), 0 where not valid.
        valid: bool (height, width).
    """
    corner = layout.corner
    dx = np.arange(layout.width)[None, :] + 0.5 - corner.x
    dy = np.arange(layout.height)[:, None] + 0.5 - corner.y
    valid = (dx * corner.cos + dy * corner.sin >= 0) & (dy * corner.cos - dx * corner.sin >= 0)
    return np.where(valid, paint(layout, seed), np.uint8(NODATA)), valid


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path(__file__).parent)
def main(folder: Path) -> None:
    """Draw the sample scene and write it, with its truth, into FOLDER or beside this file."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_sample(folder)
    except OSError as error:
        raise click.ClickException(f"{folder} cannot be written: {error}") from error


def write_sample(folder: Path) -> None:
    """Write every sample file into a folder that is there."""
    layout = lay_out(SAMPLE_SEED, HEIGHT_PX, WIDTH_PX)
    pixels, _ = photograph(layout, SAMPLE_SEED)
    left, top = ORIGIN_M
    transform = Affine(GSD_M, 0, left, 0, -GSD_M, top)
    write_geotiff(folder / "scene.tif", pixels, transform)
    write_zarr(folder / "scene.zarr", pixels, transform)
    row, col = 640, 560
    small = Affine(GSD_M, 0, left + col * GSD_M, 0, -GSD_M, top - row * GSD_M)
    write_geotiff(folder / "scene_small.tif", pixels[:, row : row + 70, col : col + 90], small)
    write_truth(folder, layout, transform)


def write_geotiff(path: Path, pixels: NDArray[np.uint8], transform: Affine) -> None:
    """Write uint8 (3, height, width) as a lossless cloud-optimised GeoTIFF."""
    profile = {
        "driver": "GTiff", "count": 3, "height": pixels.shape[1], "width": pixels.shape[2],
        "dtype": "uint8", "crs": CRS_NAME, "transform": transform, "nodata": NODATA,
        "photometric": "RGB",
    }  # fmt: skip
    with MemoryFile() as memory:
        with memory.open(**profile) as dataset:
            dataset.write(pixels)
            dataset.descriptions = ("red", "green", "blue")
        copy(
            memory.name, path, driver="COG", compress="DEFLATE", level=9, predictor=2,
            blocksize=256, overview_resampling="average",
        )  # fmt: skip


def write_zarr(path: Path, pixels: NDArray[np.uint8], transform: Affine) -> None:
    """Write uint8 (3, height, width) as a Zarr 3 group in the layout of rioxarray."""
    group = zarr.open_group(path, mode="w", zarr_format=3)
    _, height, width = pixels.shape
    scene = group.create_array(
        "scene", shape=pixels.shape, dtype="uint8", chunks=(3, 256, 256), fill_value=NODATA,
        compressors=[ZstdCodec(level=19)], dimension_names=("band", "y", "x"),
        attributes={
            "_FillValue": NODATA, "grid_mapping": "spatial_ref",
            "long_name": ["red", "green", "blue"],
        },
    )  # fmt: skip
    scene[:] = pixels
    crs = CRS.from_user_input(CRS_NAME).to_wkt()
    geotransform = " ".join(str(value) for value in transform.to_gdal())
    coordinates = {
        "band": (np.arange(1, 4), {}),
        "y": (transform.f + (np.arange(height) + 0.5) * transform.e, {"units": "metre"}),
        "x": (transform.c + (np.arange(width) + 0.5) * transform.a, {"units": "metre"}),
    }
    for name, (values, attributes) in coordinates.items():
        array = group.create_array(
            name,
            shape=values.shape,
            dtype=values.dtype,
            dimension_names=(name,),
            attributes=attributes,
        )
        array[:] = values
    reference = {"crs_wkt": crs, "spatial_ref": crs, "GeoTransform": geotransform}
    group.create_array("spatial_ref", shape=(), dtype="int64", attributes=reference)[()] = 0


def write_truth(folder: Path, layout: Layout, transform: Affine) -> None:
    """Write what the pixels were drawn from as RFC 7946 GeoJSON."""
    edge = _photographed(layout)
    layers: dict[str, list[tuple[BaseGeometry, dict[str, Any]]]] = {
        "truth_buildings": [
            (piece, {"id": number, "class": "building", "roof": building.roofs[0].kind})
            for number, building in enumerate(layout.buildings)
            for piece in _pieces(building.polygon, edge)
        ],
        "truth_roads": [
            (piece, {"id": number, "class": "road", "width_m": road.width * GSD_M})
            for number, road in enumerate(layout.roads)
            for piece in _pieces(road.polygon, edge)
        ],
        "truth_centrelines": [
            (piece, {"id": number, "class": "road", "width_m": road.width * GSD_M})
            for number, road in enumerate(layout.roads)
            for piece in _pieces(_with_junctions(road.centreline, layout), edge)
        ],
    }
    for name, rows in layers.items():
        features = [_feature(shape, properties, transform) for shape, properties in rows]
        body = ",\n".join(json.dumps(feature, separators=(",", ":")) for feature in features)
        text = f'{{"type":"FeatureCollection","features":[\n{body}\n]}}\n'
        (folder / f"{name}.geojson").write_text(text, encoding="utf-8")


def _with_junctions(line: LineString, layout: Layout) -> LineString:
    """Return a centreline with a vertex wherever another one meets it."""
    others = [road.centreline for road in layout.roads if road.centreline is not line]
    meetings = shapely.get_coordinates(shapely.intersection(line, others))
    points = np.concatenate([shapely.get_coordinates(line), meetings])
    points = np.unique(np.round(points, 6), axis=0)
    along = shapely.line_locate_point(line, shapely.points(points))
    return shapely.LineString(points[np.argsort(along)])


def _feature(shape: BaseGeometry, properties: dict[str, Any], transform: Affine) -> dict[str, Any]:
    on_map = shapely.transform(
        shape,
        lambda xy: np.stack(
            [transform.c + xy[:, 0] * transform.a, transform.f + xy[:, 1] * transform.e], 1
        ),
    )
    geometry = transform_geom(CRS_NAME, "OGC:CRS84", shapely.geometry.mapping(on_map))
    rounded = shapely.transform(shapely.geometry.shape(geometry), lambda xy: np.round(xy, 7))
    if rounded.geom_type == "Polygon":
        rounded = shapely.geometry.polygon.orient(rounded)
    return {
        "type": "Feature",
        "properties": properties,
        "geometry": shapely.geometry.mapping(rounded),
    }


def _photographed(layout: Layout) -> Polygon:
    """Return the part of the scene that holds data, in pixel coordinates."""
    far = 2.0 * (layout.height + layout.width)
    footprint = layout.corner.part(far, far, far, far).polygon()
    return footprint.intersection(shapely.box(0, 0, layout.width, layout.height))


def _pieces(shape: Polygon | LineString, edge: Polygon) -> list[Any]:
    """Return the parts of a shape inside `edge`, of the shape's own kind."""
    inside = shape.intersection(edge)
    parts = getattr(inside, "geoms", [inside])
    return [part for part in parts if part.geom_type == shape.geom_type and not part.is_empty]


if __name__ == "__main__":
    main()
