import json

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning
from rasterio.rpc import RPC

from tilingseg.errors import SceneError
from tilingseg.grid import Window
from tilingseg.readers.mask_file import CLASSES_TAG, open_mask
from tilingseg.records import NODATA
from tilingseg.vectorize.trace import trace

UTM = {"crs": "EPSG:32633", "transform": Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)}


def write(path, pixels, tags=None, **profile):
    pixels = np.atleast_3d(np.asarray(pixels).T).T  # (height, width) or (bands, height, width)
    settings = {
        "driver": "GTiff",
        "count": pixels.shape[0],
        "height": pixels.shape[1],
        "width": pixels.shape[2],
        "dtype": pixels.dtype,
        **UTM,
        **profile,
    }
    with rasterio.open(path, "w", **settings) as dataset:
        dataset.write(pixels)
        dataset.update_tags(**(tags or {}))
    return str(path)


def whole(mask):
    return mask.read_mask(Window(row=0, col=0, height=mask.height, width=mask.width))


def legend(**names):
    return {CLASSES_TAG: json.dumps({value[1:]: name for value, name in names.items()})}


class TestGivenNames:
    def test_the_caller_names_the_classes_of_a_silent_file(self, tmp_path):
        path = write(tmp_path / "m.tif", np.array([[0, 3], [7, 3]], np.uint8))
        mask = open_mask(path, names=("building", "road"))
        assert mask.classes == ("building", "road")
        assert whole(mask).tolist() == [[0, 1], [2, 1]]
        mask.close()

    def test_names_of_the_file_stay(self, tmp_path):
        tags = legend(_0="background", _1="building", _2="road")
        path = write(tmp_path / "m.tif", np.array([[0, 1], [2, 0]], np.uint8), tags)
        mask = open_mask(path, names=("tree", "water"))
        assert mask.classes == ("building", "road")
        mask.close()

    def test_names_by_value_choose_classes(self, tmp_path):
        path = write(tmp_path / "m.tif", np.array([[0, 3], [7, 3]], np.uint8))
        mask = open_mask(path, names=("class_7",))
        assert mask.classes == ("class_3", "class_7")
        mask.close()

    def test_there_is_one_name_for_each_class(self, tmp_path):
        path = write(tmp_path / "m.tif", np.array([[0, 3], [7, 3]], np.uint8))
        with pytest.raises(SceneError, match=r"2 classes \(values 3, 7\) .*; 1 given \(building\)"):
            open_mask(path, names=("building",))

    @pytest.mark.parametrize("names", [("class_9", "road"), ("class_7", "class_9"), ("class_9",)])
    def test_a_number_is_not_the_name_of_another_value(self, tmp_path, names):
        path = write(tmp_path / "m.tif", np.array([[0, 3], [5, 3]], np.uint8))
        with pytest.raises(SceneError, match=f"no class '{names[0]}'; it has class_3, class_5"):
            open_mask(path, names=names)

    def test_an_empty_mask_has_the_named_classes_and_none_of_their_pixels(self, tmp_path):
        mask = open_mask(write(tmp_path / "m.tif", np.zeros((2, 2), np.uint8)), names=("tree",))
        assert mask.classes == ("tree",)
        assert not whole(mask).any()
        mask.close()


class TestNamedClasses:
    def test_names_come_from_the_tag(self, tmp_path):
        pixels = np.array([[0, 1], [2, 255]], np.uint8)
        tags = legend(_0="background", _1="building", _2="road")
        mask = open_mask(write(tmp_path / "m.tif", pixels, tags, nodata=255))
        assert mask.classes == ("building", "road")
        assert whole(mask).tolist() == [[0, 1], [2, NODATA]]
        mask.close()

    def test_a_class_that_does_not_occur_keeps_its_place(self, tmp_path):
        tags = legend(_0="background", _1="building", _2="road")
        mask = open_mask(write(tmp_path / "m.tif", np.full((2, 2), 2, np.uint8), tags))
        assert mask.classes == ("building", "road")
        assert whole(mask).tolist() == [[2, 2], [2, 2]]
        mask.close()

    def test_a_value_without_a_name_is_an_error(self, tmp_path):
        mask = open_mask(
            write(tmp_path / "m.tif", np.array([[1, 7]], np.uint8), legend(_1="building"))
        )
        with pytest.raises(SceneError, match="value 7, which its tag"):
            whole(mask)
        mask.close()

    @pytest.mark.parametrize(
        "text", ["{", "[1]", '{"1": "b", "2": "b"}', '{"a": "b"}', '{"300": "b"}', '{"-1": "b"}']
    )
    def test_a_broken_tag_is_an_error(self, tmp_path, text):
        path = write(tmp_path / "m.tif", np.ones((2, 2), np.uint8), {CLASSES_TAG: text})
        with pytest.raises(SceneError, match=r"m\.tif"):
            open_mask(path)


class TestOtherMasks:
    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "uint32"])
    def test_every_value_that_occurs_is_a_class(self, tmp_path, dtype):
        pixels = np.array([[0, 40, 7], [7, 0, 90]], dtype)
        mask = open_mask(write(tmp_path / "m.tif", pixels))
        assert mask.classes == ("class_7", "class_40", "class_90")
        assert whole(mask).tolist() == [[0, 2, 1], [1, 0, 3]]
        assert whole(mask).dtype == np.uint8
        mask.close()

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_whole_numbers_may_be_stored_as_floats(self, tmp_path, dtype):
        path = write(tmp_path / "m.tif", np.array([[0, 3, np.nan], [-9999, 1, 3]], dtype))
        with pytest.raises(SceneError, match="value -9999.*declare it"):
            open_mask(path)
        write(path, np.array([[0, 3, np.nan], [-9999, 1, 3]], dtype), nodata=-9999)
        mask = open_mask(path)
        assert mask.classes == ("class_1", "class_3")
        assert whole(mask).tolist() == [[0, 2, NODATA], [NODATA, 1, 2]]
        mask.close()
        write(path, np.array([[0, 3, 3]], dtype), legend(_1="roof", _3="road"))
        mask = open_mask(path)
        assert whole(mask).tolist() == [[0, 2, 2]]
        mask.close()

    def test_a_mask_in_black_and_white_has_one_class(self, tmp_path):
        mask = open_mask(write(tmp_path / "m.tif", np.array([[0, 255]], np.uint8)))
        assert mask.classes == ("class_255",)
        assert whole(mask).tolist() == [[0, 1]]
        mask.close()

    def test_255_beside_classes_is_nodata(self, tmp_path):
        mask = open_mask(write(tmp_path / "m.tif", np.array([[0, 1, 255]], np.uint8)))
        assert mask.classes == ("class_1",)
        assert whole(mask).tolist() == [[0, 1, NODATA]]
        mask.close()

    def test_255_beside_classes_is_told_of(self, tmp_path):
        pixels = np.zeros((700, 1200), np.uint8)
        pixels[:, 0] = 127
        pixels[600:, 10:20] = 255
        path = write(tmp_path / "m.tif", pixels)
        mask = open_mask(path)
        assert mask.classes == ("class_127",)
        (note,) = mask.notes
        assert note == (
            "255 is taken for not labelled: 1,000 px; where it is a class, name it in the tag "
            "TILINGSEG_CLASSES"
        )
        mask.close()
        with pytest.raises(SceneError, match=r"values 127; 255 is taken for not labelled"):
            open_mask(path, names=("grass", "tree"))
        for nodata, legend in ((255, None), (None, {0: "ground", 127: "grass", 255: "tree"})):
            tags = {} if legend is None else {CLASSES_TAG: json.dumps(legend)}
            mask = open_mask(write(tmp_path / "said.tif", pixels, tags, nodata=nodata))
            assert mask.notes == ()
            mask.close()

    def test_255_is_a_class_where_others_have_larger_numbers(self, tmp_path):
        mask = open_mask(write(tmp_path / "m.tif", np.array([[0, 254, 255, 256]], np.uint16)))
        assert mask.classes == ("class_254", "class_255", "class_256")
        assert whole(mask).tolist() == [[0, 1, 2, 3]]
        assert mask.notes == ()
        mask.close()

    def test_declared_nodata_is_no_class(self, tmp_path):
        pixels = np.array([[-9999, 0, 3]], np.int16)
        mask = open_mask(write(tmp_path / "a.tif", pixels, nodata=-9999))
        assert whole(mask).tolist() == [[NODATA, 0, 1]]
        mask.close()

    def test_an_alpha_band_says_what_is_valid(self, tmp_path):
        pixels = np.array([[[1, 1]], [[0, 255]]], np.uint8)
        path = write(tmp_path / "m.tif", pixels)
        with rasterio.open(path, "r+") as dataset:
            dataset.colorinterp = (ColorInterp.gray, ColorInterp.alpha)
        mask = open_mask(path)
        assert whole(mask).tolist() == [[NODATA, 1]]
        mask.close()

    def test_background_that_is_declared_nodata_is_background(self, tmp_path):
        pixels = np.array([[0, 1, 2, 255], [0, 3, 0, 255]], np.uint8)
        mask = open_mask(write(tmp_path / "m.tif", pixels, nodata=0))
        assert mask.classes == ("class_1", "class_2", "class_3")
        assert whole(mask).tolist() == [[0, 1, 2, NODATA], [0, 3, 0, NODATA]]
        assert mask.notes[0] == "The file declares 0 to be nodata; it is read as background."
        mask.close()

    def test_alpha_says_what_is_valid_beside_a_background_that_is_declared_nodata(self, tmp_path):
        pixels = np.array([[[0, 1, 2], [0, 1, 2]], [[255, 255, 255], [0, 255, 0]]], np.uint8)
        mask = open_mask(write(tmp_path / "m.tif", pixels, nodata=0, alpha="YES"))
        assert whole(mask).tolist() == [[0, 1, 2], [NODATA, 1, NODATA]]
        mask.close()

    def test_a_mask_band_says_what_is_valid(self, tmp_path):
        path = write(tmp_path / "m.tif", np.array([[0, 1], [0, 2]], np.uint8), nodata=0)
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dataset:
            dataset.write_mask(np.array([[1, 1], [0, 0]], bool))
        mask = open_mask(path)
        assert whole(mask).tolist() == [[0, 1], [NODATA, NODATA]]
        assert mask.notes == ()
        mask.close()

    def test_a_palette_is_not_expanded(self, tmp_path):
        path = write(tmp_path / "m.tif", np.array([[0, 2]], np.uint8))
        with rasterio.open(path, "r+") as dataset:
            dataset.write_colormap(1, {0: (0, 0, 0, 255), 2: (9, 9, 9, 255)})
        mask = open_mask(path)
        assert mask.classes == ("class_2",)
        mask.close()

    def test_an_empty_mask_has_no_classes(self, tmp_path):
        mask = open_mask(write(tmp_path / "m.tif", np.zeros((3, 4), np.uint8)))
        assert mask.classes == ()
        assert whole(mask).tolist() == [[0] * 4] * 3
        mask.close()

    def test_windows_are_parts_of_the_whole(self, tmp_path):
        pixels = np.random.default_rng(0).integers(0, 5, (700, 90), dtype=np.uint8)
        path = write(tmp_path / "m.tif", pixels, tiled=True, blockxsize=64, blockysize=64)
        mask = open_mask(path)
        window = Window(row=301, col=17, height=99, width=50)
        assert np.array_equal(mask.read_mask(window), pixels[301:400, 17:67])
        assert mask.read_probability(0, window) is None
        shapes = list(trace(mask, 3))
        assert sum(shape.polygon.area for shape in shapes) == (pixels == 3).sum()
        mask.close()


class TestWhere:
    def test_a_georeference_is_kept(self, tmp_path):
        mask = open_mask(write(tmp_path / "m.tif", np.ones((4, 4), np.uint8)))
        assert mask.georef.crs == "EPSG:32633"
        assert mask.georef.transform == (0.5, 0, 500_000, 0, -0.5, 5_000_000)
        assert mask.georef.pixel_m == pytest.approx((0.5, 0.5), rel=1e-3)
        mask.close()

    def test_without_one_coordinates_are_pixels(self, tmp_path):
        path = tmp_path / "m.tif"
        with pytest.warns(NotGeoreferencedWarning):
            write(path, np.ones((2, 2), np.uint8), crs=None, transform=None)
        mask = open_mask(path, pixel_m=0.25)
        assert mask.georef.crs is None
        assert mask.georef.pixel_m == (0.25, 0.25)
        mask.close()

    @pytest.mark.parametrize("kind", ["ground control points", "rational polynomials"])
    def test_a_mask_that_must_be_warped_is_refused(self, tmp_path, kind):
        path = tmp_path / "m.tif"
        with pytest.warns(NotGeoreferencedWarning):
            write(path, np.ones((60, 80), np.uint8), crs=None, transform=None)
        with rasterio.open(path, "r+") as dataset:
            if kind == "rational polynomials":
                dataset.rpcs = RPC(
                    *[1.0] * 4, *([[1.0] * 20] * 2), *[1.0] * 4, *([[1.0] * 20] * 2), 1.0, 1.0
                )
            else:
                corners = [(r, c) for r in (0, 60) for c in (0, 80)]
                points = [GroundControlPoint(r, c, 5e5 + c / 2, 5e6 - r / 2) for r, c in corners]
                dataset.gcps = points, rasterio.CRS.from_epsg(32633)
        with pytest.raises(SceneError, match=f"placed by {kind}.* alone; .* gdalwarp .*-r near"):
            open_mask(path)
        mask = open_mask(path, pixel_m=0.5)
        assert mask.georef.to_coordinates == (1, 0, 0, 0, 1, 0)
        mask.close()


class TestNoMasks:
    @pytest.mark.parametrize("value", [0.5, np.inf, -3.4e38])
    def test_numbers_with_fractions_or_without_end_are_refused(self, tmp_path, value):
        with pytest.raises(
            SceneError, match=rf"float32 values such as {value:g}".replace("+", r"\+")
        ):
            open_mask(write(tmp_path / "m.tif", np.array([[0, 2, value]], np.float32)))

    def test_pictures_are_refused(self, tmp_path):
        words = "3 bands; a class mask has one .*gdal_translate -ot Float32 -scale 0 255 0 1"
        with pytest.raises(SceneError, match=words):
            open_mask(write(tmp_path / "m.tif", np.ones((3, 2, 2), np.uint8)))

    def test_a_number_for_each_object_is_refused(self, tmp_path):
        pixels = np.arange(400, dtype=np.uint16).reshape(20, 20)
        with pytest.raises(SceneError, match="more than 254 different values.*-scale 0 65535 0 1"):
            open_mask(write(tmp_path / "m.tif", pixels))

    def test_negative_classes_are_refused(self, tmp_path):
        with pytest.raises(SceneError, match="value -3; classes are numbers above 0"):
            open_mask(write(tmp_path / "m.tif", np.array([[-3, 1]], np.int16)))

    def test_a_missing_file_and_a_text_file_are_refused(self, tmp_path):
        with pytest.raises(SceneError, match="No such file"):
            open_mask(tmp_path / "no.tif")
        (tmp_path / "text.tif").write_text("no raster")
        with pytest.raises(SceneError, match="no raster in a format"):
            open_mask(tmp_path / "text.tif")

    def test_a_damaged_file_names_the_rows(self, tmp_path):
        pixels = np.random.default_rng(0).integers(0, 3, (600, 600), dtype=np.uint8)
        path = write(tmp_path / "m.tif", pixels, compress="deflate")
        data = (tmp_path / "m.tif").read_bytes()
        (tmp_path / "m.tif").write_bytes(data[: len(data) // 2])
        with pytest.raises(SceneError, match=r"m\.tif"):
            open_mask(path)
