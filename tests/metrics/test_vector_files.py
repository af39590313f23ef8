"""Pairs of vector files in different CRS and formats, and files that cannot be compared."""

import geopandas
import numpy as np
import pytest
import shapely
from shapely.geometry import LineString, MultiPolygon, Point, Polygon, box

from tilingseg.errors import EvaluationError
from tilingseg.features import Layer, write_features
from tilingseg.metrics.vector_files import read_pair
from tilingseg.records import Feature, Georef

HOUSES = [box(0, 0, 10, 10), box(30, 0, 50, 10)]
HELSINKI = (500_000, 6_650_000)  # UTM 34, at 60° N


def write(path, geometries, crs="EPSG:32634", origin=HELSINKI, to=None, **columns):
    """Write geometries in metres around an origin, in another CRS if asked to."""
    moved = shapely.transform(np.array(geometries, object), lambda xy: xy + origin)
    frame = geopandas.GeoDataFrame(columns, geometry=list(moved), crs=crs)
    frame = frame if to is None else frame.to_crs(to)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_file(path)
    return path


@pytest.mark.parametrize("crs", ["EPSG:32634", "EPSG:4326", "EPSG:3857", "EPSG:3067", "EPSG:2393"])
@pytest.mark.parametrize("suffix", [".gpkg", ".fgb", ".parquet"])
def test_both_come_into_one_plane_of_ground_metres(tmp_path, crs, suffix):
    truth = write(tmp_path / "truth.gpkg", HOUSES, to="EPSG:3857")
    found = write(tmp_path / f"found{suffix}", HOUSES, to=crs)
    pair = read_pair(truth, found)
    assert (pair.kind, pair.unit) == ("polygons", "m")
    assert pair.found.crs == crs
    order = np.argsort(shapely.area(pair.found.geometries))  # FlatGeobuf has one of its own
    found_here = pair.found.geometries[order]
    # the old Finnish grid comes by a transformation that is good to a metre or so
    atol = 3 if crs == "EPSG:2393" else 1e-3
    assert shapely.hausdorff_distance(pair.truth.geometries, found_here).max() < atol
    for geometries in (pair.truth.geometries, found_here):
        # UTM itself is 0.04 % too small at its central meridian
        assert shapely.area(geometries) == pytest.approx([100 / 0.9996**2, 200 / 0.9996**2])


def test_confidence_in_words_is_none(tmp_path):
    truth = write(tmp_path / "truth.gpkg", HOUSES, confidence=["high"] * len(HOUSES))
    found = write(tmp_path / "found.gpkg", HOUSES)
    assert read_pair(truth, found).truth.confidence is None


def test_parts_count_one_by_one_and_keep_the_confidence_of_their_feature(tmp_path):
    truth = write(tmp_path / "truth.gpkg", HOUSES)
    found = write(
        tmp_path / "found.gpkg", [MultiPolygon(HOUSES), box(80, 0, 90, 9)], confidence=[0.5, 0.25]
    )
    pair = read_pair(truth, found)
    areas = sorted(shapely.area(pair.found.geometries))
    assert areas == pytest.approx([90.07, 100.08, 200.16], abs=0.01)
    assert pair.found.confidence.tolist() == [0.5, 0.5, 0.25]
    assert pair.truth.confidence is None


def test_invalid_and_empty_geometries_are_repaired_or_left_out_and_counted(tmp_path):
    bow_tie = Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])
    found = write(tmp_path / "found.gpkg", [bow_tie, Point(5, 5), Polygon(), box(30, 0, 50, 10)])
    pair = read_pair(write(tmp_path / "truth.gpkg", HOUSES), found)
    assert (pair.found.n_repaired, pair.found.n_left_out) == (1, 2)
    assert len(pair.found.geometries) == 3
    assert shapely.is_valid(pair.found.geometries).all()


@pytest.mark.parametrize("pole", [1, -1])
def test_polar_scenes_have_metres_too(tmp_path, pole):
    crs = "EPSG:3413" if pole > 0 else "EPSG:3031"
    around = [box(-50, -50, 50, 50)]
    truth = write(tmp_path / "truth.gpkg", around, crs=crs, origin=(0, 0))
    scene = Georef(crs=crs, transform=(1, 0, -100, 0, -1, 100), pixel_m=(1, 1))
    feature = Feature(class_name="building", geometry=box(50, 50, 150, 150), confidence=None)
    found = tmp_path / "found.geojson"
    write_features([feature], found, Layer(name="scene", georef=scene))
    pair = read_pair(truth, found)
    assert len(pair.found.geometries) == 1
    difference = shapely.symmetric_difference(pair.truth.geometries, pair.found.geometries)
    assert shapely.area(difference).max() < 1e-3 * shapely.area(pair.truth.geometries[0])


def test_what_was_cut_at_the_antimeridian_is_whole_again(tmp_path):
    scene = Georef(crs="EPSG:32701", transform=(1, 0, 166_000, 0, -1, 8_100_000), pixel_m=(1, 1))
    east = geopandas.GeoSeries([Point(180, -17)], crs=4326).to_crs(scene.crs)[0]
    x, y = east.x - 166_000, 8_100_000 - east.y
    house = Feature(
        class_name="building", geometry=box(x - 20, y - 5, x + 20, y + 5), confidence=None
    )
    road = Feature(
        class_name="road", geometry=LineString([(x - 200, y), (x + 200, y + 9)]), confidence=None
    )
    for suffix in (".gpkg", ".geojson"):
        write_features([house], tmp_path / f"house{suffix}", Layer(name="a", georef=scene))
        layer = Layer(name="b", georef=scene, geometry_type="LineString")
        write_features([road], tmp_path / f"road{suffix}", layer)
    pair = read_pair(tmp_path / "house.gpkg", tmp_path / "house.geojson")
    assert len(pair.found.geometries) == 1
    assert shapely.hausdorff_distance(pair.truth.geometries, pair.found.geometries).max() < 0.02
    pair = read_pair(tmp_path / "road.gpkg", tmp_path / "road.geojson")
    ends = shapely.get_coordinates(pair.found.geometries).tolist()
    assert len(pair.found.geometries) == 2
    assert len({tuple(end) for end in ends}) == 3  # the two halves share a vertex


@pytest.mark.parametrize("n_px", [40, 4000])
def test_pixels_stay_pixels(tmp_path, n_px):
    scene = Georef(crs=None, transform=(1, 0, 0, 0, 1, 0), pixel_m=None)
    cell = Feature(class_name="cell", geometry=box(n_px, 10, n_px + 10, 20), confidence=0.5)
    for suffix in (".geojson", ".gpkg"):
        write_features([cell], tmp_path / f"cells{suffix}", Layer(name="cells", georef=scene))
    pair = read_pair(tmp_path / "cells.gpkg", tmp_path / "cells.geojson")
    assert pair.unit == "px"
    assert pair.truth.crs is pair.found.crs is None
    assert pair.found.geometries[0].equals(pair.truth.geometries[0])


class TestRefusals:
    @pytest.fixture
    def truth(self, tmp_path):
        return write(tmp_path / "truth.gpkg", HOUSES)

    def test_a_file_that_is_not_there(self, truth, tmp_path):
        with pytest.raises(EvaluationError, match="cannot read vectors from .*none.gpkg"):
            read_pair(truth, tmp_path / "none.gpkg")

    @pytest.mark.parametrize("name", ["text.geojson", "text.gpkg", "text.parquet"])
    def test_a_file_that_is_no_vectors(self, truth, tmp_path, name):
        (tmp_path / name).write_text("no vectors")
        with pytest.raises(EvaluationError, match="cannot read vectors from") as caught:
            read_pair(tmp_path / name, truth)
        assert "\n" not in str(caught.value)

    def test_a_table_without_geometries(self, truth, tmp_path):
        (tmp_path / "table.csv").write_text("a,b\n1,2\n")
        with pytest.raises(EvaluationError, match="without geometries"):
            read_pair(truth, tmp_path / "table.csv")

    def test_several_layers(self, truth, tmp_path):
        frame = geopandas.read_file(truth)
        for name in ("one", "two"):
            frame.to_file(tmp_path / "many.gpkg", layer=name)
        with pytest.raises(EvaluationError, match=r"2 layers \(one, two\)"):
            read_pair(truth, tmp_path / "many.gpkg")

    def test_lines_against_polygons(self, truth, tmp_path):
        roads = write(tmp_path / "roads.gpkg", [LineString([(0, 0), (9, 9)])])
        with pytest.raises(EvaluationError, match="polygons in one and lines in the other"):
            read_pair(truth, roads)

    def test_lines_and_polygons_in_one_file(self, truth, tmp_path):
        both = write(tmp_path / "both.gpkg", [LineString([(0, 0), (9, 9)]), HOUSES[0]])
        with pytest.raises(EvaluationError, match="both polygons and lines"):
            read_pair(truth, both)

    def test_points(self, tmp_path):
        points = write(tmp_path / "points.gpkg", [Point(0, 0)])
        with pytest.raises(EvaluationError, match="neither polygons nor lines"):
            read_pair(points, points)

    def test_one_without_a_crs(self, truth, tmp_path):
        frame = geopandas.read_file(truth).set_crs(None, allow_override=True)
        frame.to_parquet(tmp_path / "plain.parquet")
        with pytest.raises(EvaluationError, match=r"plain.parquet has no CRS, unlike .*truth.gpkg"):
            read_pair(tmp_path / "plain.parquet", truth)

    def test_coordinates_that_lie_nowhere(self, truth, tmp_path):
        wrong = write(tmp_path / "wrong.gpkg", HOUSES, crs="EPSG:4326")
        with pytest.raises(EvaluationError, match="do not lie in its CRS, EPSG:4326"):
            read_pair(truth, wrong)
