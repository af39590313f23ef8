"""The sample data is what its generator draws, and its truth is what its pixels show."""

import json
from dataclasses import replace
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import zarr
from click.testing import CliRunner
from rasterio.features import rasterize

from sample_data.layout import lay_out
from sample_data.make_sample_data import GSD_M, ORIGIN_M, SAMPLE_SEED, draw_scene, main
from sample_data.paint import paint
from tilingseg.metrics.roads import n_bare_crossings, path_agreement

SHIPPED = Path(__file__).parent.parent / "sample_data"
LAYERS = ("truth_buildings", "truth_roads", "truth_centrelines")


@pytest.fixture(scope="module")
def regenerated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample") / "new"
    done = CliRunner().invoke(main, [str(folder)])
    assert done.exit_code == 0, done.output
    return folder


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    refused = CliRunner().invoke(main, [str(tmp_path / "file")])
    assert refused.exit_code == 1
    assert refused.output.startswith(f"Error: {tmp_path / 'file'} cannot be written: ")
    assert refused.output.count("\n") == 1


def burn(polygons, shape):
    return rasterize(polygons, out_shape=shape, dtype="uint8").astype(bool)


@pytest.mark.parametrize("name", ["scene.tif", "scene_small.tif"])
def test_geotiffs_are_what_the_generator_draws(regenerated, name):
    with rasterio.open(SHIPPED / name) as shipped, rasterio.open(regenerated / name) as drawn:
        assert shipped.profile == drawn.profile
        assert shipped.descriptions == ("red", "green", "blue")
        np.testing.assert_array_equal(shipped.read(), drawn.read())


def test_zarr_holds_the_pixels_and_the_place_of_the_geotiff(regenerated):
    with rasterio.open(SHIPPED / "scene.tif") as dataset:
        pixels, transform, crs = dataset.read(), dataset.transform, dataset.crs
    for folder in (SHIPPED, regenerated):
        group = zarr.open_group(folder / "scene.zarr", mode="r")
        np.testing.assert_array_equal(group["scene"][:], pixels)
        assert group["scene"].metadata.dimension_names == ("band", "y", "x")
        reference = dict(group["spatial_ref"].attrs)
        numbers = tuple(float(n) for n in reference["GeoTransform"].split())
        assert numbers == transform.to_gdal()
        assert rasterio.crs.CRS.from_wkt(reference["crs_wkt"]) == crs
        np.testing.assert_allclose(group["x"][:2], [ORIGIN_M[0] + 0.25, ORIGIN_M[0] + 0.75])
        np.testing.assert_allclose(group["y"][:2], [ORIGIN_M[1] - 0.25, ORIGIN_M[1] - 0.75])


@pytest.mark.parametrize("layer", LAYERS)
def test_truth_is_what_the_generator_draws(regenerated, layer):
    shipped, drawn = (
        json.loads((folder / f"{layer}.geojson").read_text())["features"]
        for folder in (SHIPPED, regenerated)
    )
    assert [f["properties"] for f in shipped] == [f["properties"] for f in drawn]
    for one, other in zip(shipped, drawn, strict=True):
        a, b = (shapely.geometry.shape(f["geometry"]).normalize() for f in (one, other))
        assert a.equals_exact(b, 1.5e-7)  # the last decimal that is written


def test_true_roads_have_a_vertex_where_they_meet():
    frame = geopandas.read_file(SHIPPED / "truth_centrelines.geojson").to_crs(32633)
    lines = frame.geometry.tolist()
    ways = path_agreement(lines, lines)
    assert n_bare_crossings(lines, tolerance_m=0.05) == 0
    assert ways.apls == 1
    assert len(np.unique(shapely.get_coordinates(lines), axis=0)) < sum(
        len(line.coords) for line in lines
    )


def test_small_scene_is_a_window_of_the_scene():
    with (
        rasterio.open(SHIPPED / "scene.tif") as scene,
        rasterio.open(SHIPPED / "scene_small.tif") as small,
    ):
        assert small.shape == (70, 90)
        window = scene.window(*small.bounds)
        np.testing.assert_array_equal(scene.read(window=window), small.read())


def test_truth_is_rfc_7946_and_lies_inside_the_photograph():
    with rasterio.open(SHIPPED / "scene.tif") as dataset:
        valid, transform = dataset.dataset_mask() > 0, dataset.transform
    for layer in LAYERS:
        document = json.loads((SHIPPED / f"{layer}.geojson").read_text())
        assert "crs" not in document
        for feature in document["features"]:
            shape = shapely.geometry.shape(feature["geometry"])
            assert shape.is_valid
            if shape.geom_type == "Polygon":
                assert shape.exterior.is_ccw
                assert not any(ring.is_ccw for ring in shape.interiors)
            on_map = rasterio.warp.transform_geom("OGC:CRS84", "EPSG:32633", feature["geometry"])
            inside = rasterize([on_map], valid.shape, transform=transform, dtype="uint8") > 0
            assert not (inside & ~valid).sum() > 3  # pixels whose centre is on the very edge


def test_seeds_draw_different_scenes_and_repeat_themselves():
    one, again, other = (draw_scene(seed, 300, 400) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one[0], again[0])
    assert one[2] == again[2]
    assert one[3] == again[3]
    assert (one[0] != other[0]).mean() > 0.5
    assert SAMPLE_SEED not in (3, 4)


def test_draw_scene_keeps_nodata_and_values_apart():
    pixels, valid, buildings, roads = draw_scene(5, 301, 402)
    assert pixels.shape == (3, 301, 402)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal((pixels == 0).any(axis=0), ~valid)
    assert 0.5 < valid.mean() < 1
    assert all(polygon.geom_type == "Polygon" for polygon in (*buildings, *roads))
    assert not (burn([*buildings, *roads], valid.shape) & ~valid).any()


@pytest.mark.parametrize("dry", [False, True])
@pytest.mark.parametrize(("field", "reach_px"), [("buildings", 36), ("roads", 6)])
def test_what_is_painted_lies_under_the_truth(field, reach_px, dry):
    bare = replace(lay_out(6, 384, 384, dry=dry), trees=(), cars=(), grounds=())
    painted = (paint(bare, 6) != paint(replace(bare, **{field: ()}), 6)).any(axis=0)
    polygons = [thing.polygon for thing in getattr(bare, field)]
    core = burn([p.buffer(-0.75) for p in polygons], painted.shape)
    around = burn([p.buffer(reach_px) for p in polygons], painted.shape)
    assert core.sum() > 5_000
    assert painted[core].mean() > 0.97  # a roof pixel may have the very colour of the ground
    assert not painted[~around].any()  # shadows and kerbs end nearby


def test_dry_towns_hold_halls_as_long_as_a_block():
    _, _, buildings, _ = draw_scene(4, 896, 1152, dry=True)
    areas_m2 = np.array([polygon.area for polygon in buildings]) * GSD_M**2
    assert (areas_m2 > 2_000).sum() >= 6
    assert areas_m2[areas_m2 > 2_000].sum() > 0.4 * areas_m2.sum()


@pytest.mark.parametrize("dry", [False, True])
def test_footprints_stand_apart_and_off_the_roads(dry):
    _, _, buildings, roads = draw_scene(7, 500, 500, dry=dry)
    assert len(buildings) > (5 if dry else 30)
    total = sum(polygon.area for polygon in buildings)
    assert shapely.union_all(buildings).area == pytest.approx(total)
    assert shapely.union_all(roads).intersection(shapely.union_all(buildings)).is_empty


def test_one_metre_is_two_pixels():
    with rasterio.open(SHIPPED / "scene.tif") as dataset:
        assert dataset.res == (GSD_M, GSD_M)
        assert dataset.crs.linear_units == "metre"
        assert dataset.nodata == 0
