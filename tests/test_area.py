import geopandas
import numpy as np
import pyproj
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import UTM, ArrayReader
from tests.strategies import windows_in
from tilingseg.area import area_from_box, area_from_file, area_mask, area_window
from tilingseg.errors import PlanError
from tilingseg.grid import Window
from tilingseg.readers.georef import fit_grid
from tilingseg.records import Georef

PIXELS = np.zeros((1, 60, 80), dtype=np.uint8)
SCENE = ArrayReader(PIXELS).scene
PLAIN = ArrayReader(
    PIXELS, georef=Georef(crs=None, transform=(1, 0, 0, 0, 1, 0), pixel_m=None)
).scene


def in_degrees(west):
    """Return a scene of 20 × 15 degrees, 0.25 degrees a pixel, from 7.5° N southwards."""
    transform = (0.25, 0.0, west, 0.0, -0.25, 7.5)
    georef = Georef(crs="EPSG:4326", transform=transform, pixel_m=(27_000, 27_000))
    return ArrayReader(PIXELS, georef=georef).scene


def test_a_box_is_in_the_scenes_crs():
    area = area_from_box(SCENE, (500_005.0, 4_999_980.0, 500_020.0, 4_999_995.0))
    assert area.bounds == (10, 10, 40, 40)
    assert area_window(area, SCENE) == Window(row=10, col=10, height=30, width=30)


def test_a_box_is_in_pixels_where_there_is_no_crs():
    assert area_from_box(PLAIN, (3, 5, 7, 11)).bounds == (3, 5, 7, 11)


def test_a_box_is_in_pixels_of_the_file_where_they_were_resampled(tmp_path):
    # a slide of 0.25 µm seen at 0.5 µm
    grid = (2, 0, 0, 0, 2, 0)
    half = Georef(crs=None, transform=grid, pixel_m=(5e-7, 5e-7), in_file=grid)
    scene = ArrayReader(PIXELS, georef=half).scene
    assert area_from_box(scene, (100, 60, 140, 100)).bounds == (50, 30, 70, 50)
    frame = geopandas.GeoDataFrame(geometry=[shapely.box(100, 60, 140, 100)], crs="EPSG:4326")
    frame.to_file(tmp_path / "a.geojson")
    assert area_from_file(scene, tmp_path / "a.geojson").bounds == (50, 30, 70, 50)


@pytest.mark.parametrize("world_file", [(0.5, 0, 5e5, 0, -0.5, 5e6), (2, 0, 0, 0, 2, 0)])
def test_a_box_stays_in_pixels_where_a_world_file_leads_nowhere(world_file):
    elsewhere = Georef(crs=None, transform=world_file, pixel_m=(0.1, 0.1))
    scene = ArrayReader(PIXELS, georef=elsewhere).scene
    assert area_from_box(scene, (3, 5, 7, 11)).bounds == (3, 5, 7, 11)
    coarser = fit_grid(elsewhere, (1000, 1000), 0.5, "scene.tif").georef
    scene = ArrayReader(PIXELS, georef=coarser).scene
    assert area_from_box(scene, (15, 25, 35, 55)).bounds == pytest.approx((3, 5, 7, 11))


def test_a_rotated_scene_is_honoured():
    turned = Georef(crs="EPSG:32633", transform=(0, 2, 100, 2, 0, 200), pixel_m=(2, 2))
    scene = ArrayReader(PIXELS, georef=turned).scene
    assert area_from_box(scene, (110, 220, 120, 240)).bounds == (10, 5, 20, 10)


def test_the_area_ends_with_the_scene():
    area = area_from_box(PLAIN, (-50, -50, 5.5, 7.2))
    assert area_window(area, PLAIN) == Window(row=0, col=0, height=8, width=6)


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ((600_000, 0, 600_001, 1), r"does not overlap .*500000,4999970,500040,5000000"),
        ((5, 5, 5, 9), "is empty"),
        ((9, 5, 5, 9), "is empty"),
        ((-np.inf, -np.inf, np.inf, np.inf), "finite numbers"),
        ((5, 5, np.nan, 9), "finite numbers"),
    ],
)
def test_boxes_that_hold_nothing_are_refused(box, words):
    with pytest.raises(PlanError, match=words):
        area_from_box(SCENE, box)


class TestFile:
    def write(self, path, geometries, crs="EPSG:32633"):
        geopandas.GeoDataFrame(geometry=geometries, crs=crs).to_file(path)
        return path

    def test_is_brought_to_the_scenes_crs(self, tmp_path):
        box = shapely.box(500_005, 4_999_980, 500_020, 4_999_995)
        here = geopandas.GeoSeries([box], crs="EPSG:32633")
        path = self.write(tmp_path / "a.geojson", here.to_crs(4326).values, "EPSG:4326")
        area = area_from_file(SCENE, path)
        assert area.symmetric_difference(shapely.box(10, 10, 40, 40)).area < 0.01

    def test_joins_all_its_polygons(self, tmp_path):
        boxes = [shapely.box(500_000 + x, 4_999_990, 500_004 + x, 4_999_995) for x in (0, 2, 20)]
        area = area_from_file(SCENE, self.write(tmp_path / "a.gpkg", boxes))
        assert area.area == pytest.approx((6 + 4) * 5 * 4)

    def test_without_polygons_is_refused(self, tmp_path):
        path = self.write(tmp_path / "a.gpkg", [shapely.Point(500_001, 4_999_999)])
        with pytest.raises(PlanError, match="holds no polygon"):
            area_from_file(SCENE, path)

    def test_around_the_earth_holds_the_scene(self, tmp_path):
        # the corners have no place in the scene's CRS
        path = self.write(tmp_path / "a.geojson", [shapely.box(-180, -90, 180, 90)], "EPSG:4326")
        assert area_from_file(SCENE, path).area == 60 * 80

    def test_of_half_the_earth_ends_where_it_ends(self, tmp_path):
        # the scene begins on the central meridian, 15° E
        path = self.write(
            tmp_path / "a.geojson", [shapely.box(-180, -90, 15.0001, 90)], "EPSG:4326"
        )
        whole, cut = SCENE.width, area_from_file(SCENE, path).bounds[2]
        assert 0 < cut < whole
        assert cut == pytest.approx(7.9 / 0.5, abs=0.3)

    def test_on_the_other_side_of_the_earth_is_refused(self, tmp_path):
        path = self.write(tmp_path / "a.geojson", [shapely.box(-180, -90, -100, 90)], "EPSG:4326")
        with pytest.raises(PlanError, match="does not overlap"):
            area_from_file(SCENE, path)

    @pytest.mark.parametrize("west", [170.0, -190.0])
    def test_in_two_parts_at_the_date_line_is_one(self, tmp_path, west):
        # as RFC 7946 asks for; the scene runs on past the line
        parts = [shapely.box(175, 0, 180, 5), shapely.box(-180, 0, -175, 5)]
        path = self.write(tmp_path / "a.geojson", parts, "EPSG:4326")
        area = area_from_file(in_degrees(west), path)
        assert area.symmetric_difference(shapely.box(20, 10, 60, 30)).area < 1e-6

    @pytest.mark.parametrize(
        "parts",
        [[(179.9996, 180), (-180, -179.9996)], [(179.9996, 180.0004)], [(-180.0004, -179.9996)]],
    )
    @pytest.mark.parametrize(
        ("crs", "middle"),
        [("EPSG:3857", 20_037_508.342789244), ("EPSG:3395", -20_037_508.342789244)],
    )
    def test_at_the_date_line_is_one_on_maps_that_run_on(self, tmp_path, parts, crs, middle):
        south, north = -17.6793, -17.6790
        boxes = [shapely.box(west, south, east, north) for west, east in parts]
        path = self.write(tmp_path / "a.geojson", boxes, "EPSG:4326")
        y = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(0, north)[1]
        transform = (2.0, 0.0, middle - 80, 0.0, -2.0, y + 20)
        georef = Georef(crs=crs, transform=transform, pixel_m=(1.9, 1.9))
        area = area_from_file(ArrayReader(PIXELS, georef=georef).scene, path)
        metres = 0.0004 * 20_037_508.342789244 / 180
        expected = (40 - metres / 2, 10, 40 + metres / 2)
        assert area.bounds[:3] == pytest.approx(expected, abs=1e-3)
        assert area.area == pytest.approx(metres * (area.bounds[3] - 10), rel=1e-4)

    def test_on_a_map_is_refused_where_the_scene_is_on_none(self, tmp_path):
        degrees = [shapely.box(13.4, 52.5, 13.41, 52.51)]
        for path in (
            self.write(tmp_path / "a.gpkg", degrees, "EPSG:4326"),
            self.write(tmp_path / "a.geojson", degrees, "EPSG:3857"),
        ):
            with pytest.raises(PlanError, match=r"a\.\w+ has the CRS 'WGS 84.*pixels"):
                area_from_file(PLAIN, path)
        path = self.write(tmp_path / "b.geojson", [shapely.box(3, 5, 7, 11)], "EPSG:4326")
        assert area_from_file(PLAIN, path).bounds == (3, 5, 7, 11)

    @pytest.mark.parametrize(
        ("west", "box", "columns"),
        [(350.0, (-5, 0, -3, 5), (20, 28)), (-10.0, (355, 0, 357, 5), (20, 28))],
    )
    def test_counts_longitudes_in_either_way(self, tmp_path, west, box, columns):
        path = self.write(tmp_path / "a.geojson", [shapely.box(*box)], "EPSG:4326")
        for area in (area_from_file(in_degrees(west), path), area_from_box(in_degrees(west), box)):
            assert (area.bounds[0], area.bounds[2]) == pytest.approx(columns)

    def test_of_invalid_polygons_is_made_valid(self, tmp_path):
        # two that cross themselves and each other, which no union is defined for
        bows = [
            shapely.Polygon([(x, 0), (x + 40, 40), (x + 40, 0), (x, 40.5)]) for x in (5, 12, 13.7)
        ]
        area = area_from_file(PLAIN, self.write(tmp_path / "a.geojson", bows, "EPSG:4326"))
        assert area.is_valid
        assert 1000 < area.area < 60 * 80

    def test_a_table_is_refused(self, tmp_path):
        (tmp_path / "a.csv").write_text("name,x\na,1\n")
        with pytest.raises(PlanError, match=r"a\.csv holds no geometry"):
            area_from_file(SCENE, tmp_path / "a.csv")

    def test_that_is_infinite_is_refused(self, tmp_path):
        frame = geopandas.GeoDataFrame(
            geometry=[shapely.box(5e5, 4e6, 6e5, np.inf)], crs="EPSG:32633"
        )
        frame.to_file(tmp_path / "a.gpkg")
        with pytest.raises(PlanError, match="no finite numbers"):
            area_from_file(SCENE, tmp_path / "a.gpkg")

    def test_elsewhere_is_refused(self, tmp_path):
        path = self.write(tmp_path / "a.gpkg", [shapely.box(0, 0, 1, 1)])
        with pytest.raises(PlanError, match="does not overlap"):
            area_from_file(SCENE, path)

    @pytest.mark.parametrize("content", [None, b"", b"no vectors"])
    def test_that_cannot_be_read_is_refused(self, tmp_path, content):
        path = tmp_path / "a.geojson"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(PlanError, match="cannot read the area of interest"):
            area_from_file(SCENE, path)


class TestMask:
    # no pixel centre lies on its outline
    AREA = shapely.Polygon([(5.31, 3.17), (60.73, 20.29), (40.11, 55.37), (10.71, 30.13)])

    @given(windows_in(60, 80))
    def test_of_a_window_is_cut_from_the_mask_of_the_scene(self, window):
        whole = area_mask(self.AREA, Window(row=0, col=0, height=60, width=80))
        part = area_mask(self.AREA, window)
        cut = whole[window.row : window.row_stop, window.col : window.col_stop]
        assert np.array_equal(np.zeros_like(cut) if part is None else part, cut)

    @given(st.data())
    def test_takes_pixels_by_their_centre(self, data):
        window = data.draw(windows_in(60, 80))
        part = area_mask(self.AREA, window)
        rows, cols = np.mgrid[window.row : window.row_stop, window.col : window.col_stop]
        inside = shapely.contains_xy(self.AREA, cols + 0.5, rows + 0.5)
        assert np.array_equal(np.zeros_like(inside) if part is None else part, inside)

    def test_is_everything_without_an_area(self):
        assert area_mask(None, Window(row=0, col=0, height=2, width=3)).all()


def test_utm_fixture_is_half_a_metre():
    assert UTM.gsd_m == 0.5
