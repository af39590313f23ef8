import json

import numpy as np
import ome_zarr.io
import ome_zarr.reader
import pytest
import zarr
from ome_zarr_models import open_ome_zarr

from tests.export.results import ArrayResult
from tests.fakes import UTM
from tests.full_disk import files_up_to
from tilingseg.errors import OutputError
from tilingseg.export import write_mask_zarr
from tilingseg.export.windows import STEP_PX
from tilingseg.grid import Window
from tilingseg.palette import class_colour
from tilingseg.readers import open_scene
from tilingseg.records import NODATA, Georef

EXTENT = Window(row=37, col=21, height=1500, width=1101)
SLIDE = Georef(crs=None, transform=(1, 0, 0, 0, 1, 0), pixel_m=(5e-7, 2.5e-7))
TURNED = Georef(crs="EPSG:32633", transform=(0.4, 0.3, 5e5, 0.3, -0.4, 5e6), pixel_m=(0.5, 0.5))


def images(path):
    return list(ome_zarr.reader.Reader(ome_zarr.io.parse_url(path))())


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("georef", [UTM, TURNED], ids=["north up", "turned"])
def test_a_result_with_crs_follows_cf(tmp_path, georef):
    result = ArrayResult(1600, 1200, georef=georef)
    write_mask_zarr(tmp_path / "m.zarr", result, EXTENT, (("TILINGSEG_MODEL", "unet"),))
    group = zarr.open_group(tmp_path / "m.zarr", mode="r")
    mask, probability = result.cut(EXTENT)
    np.testing.assert_array_equal(group["mask"][:], mask)
    np.testing.assert_array_equal(group["probability"][:], probability)
    assert group["mask"].metadata.dimension_names == ("y", "x")
    assert group["probability"].metadata.dimension_names == ("class", "y", "x")
    attributes = dict(group["mask"].attrs)
    assert attributes["flag_values"] == [0, 1, 2]
    assert attributes["flag_meanings"] == "background building road"
    assert attributes["_FillValue"] == NODATA
    assert group["probability"].attrs["scale_factor"] == 1 / 255
    assert group.attrs["tilingseg"]["TILINGSEG_MODEL"] == "unet"
    assert ("x" in group) == (georef is UTM)


@pytest.mark.parametrize("georef", [UTM, TURNED], ids=["north up", "turned"])
def test_our_reader_finds_the_place_and_nodata_again(tmp_path, georef):
    result = ArrayResult(1600, 1200, georef=georef)
    write_mask_zarr(tmp_path / "m.zarr", result, EXTENT)
    reader = open_scene(tmp_path / "m.zarr" / "mask")
    a, b, c, d, e, f = georef.transform
    moved = (a, b, c + a * 21 + b * 37, d, e, f + d * 21 + e * 37)
    assert reader.scene.georef.crs == "EPSG:32633"
    assert reader.scene.georef.transform == pytest.approx(moved)
    pixels, valid = reader.read(Window(row=0, col=0, height=1500, width=1101))
    mask = result.cut(EXTENT)[0]
    np.testing.assert_array_equal(valid, mask != NODATA)
    np.testing.assert_array_equal(pixels[0][valid], mask[valid])


def test_coordinates_are_pixel_centres(tmp_path):
    result = ArrayResult(300, 200)
    write_mask_zarr(tmp_path / "m.zarr", result, Window(row=10, col=20, height=50, width=60))
    group = zarr.open_group(tmp_path / "m.zarr", mode="r")
    np.testing.assert_allclose(group["x"][:], 500_000 + 0.5 * (20.5 + np.arange(60)))
    np.testing.assert_allclose(group["y"][:], 5_000_000 - 0.5 * (10.5 + np.arange(50)))
    np.testing.assert_array_equal(group["class"][:], [1, 2])
    assert group["x"].attrs["standard_name"] == "projection_x_coordinate"


def test_geographic_coordinates_are_called_so(tmp_path):
    degrees = Georef(crs="EPSG:4326", transform=(1e-5, 0, 13.0, 0, -1e-5, 52.0), pixel_m=(0.7, 1.1))
    result = ArrayResult(30, 20, georef=degrees)
    write_mask_zarr(tmp_path / "m.zarr", result, result.whole)
    group = zarr.open_group(tmp_path / "m.zarr", mode="r")
    assert group["x"].attrs["standard_name"] == "longitude"
    assert group["y"].attrs["standard_name"] == "latitude"


def test_a_slide_becomes_an_ngff_label_image(tmp_path):
    result = ArrayResult(2100, 1501, georef=SLIDE)
    extent = Window(row=4, col=8, height=2095, width=1493)
    write_mask_zarr(tmp_path / "m.zarr", result, extent)
    open_ome_zarr(zarr.open_group(tmp_path / "m.zarr", mode="r"))
    [node] = images(tmp_path / "m.zarr")
    mask = result.cut(extent)[0]
    levels = [np.asarray(level) for level in node.data]
    assert len(levels) == 3
    for factor, level in zip((1, 2, 4), levels, strict=True):
        np.testing.assert_array_equal(level, mask[::factor, ::factor])
    metadata = zarr.open_group(tmp_path / "m.zarr", mode="r").attrs["ome"]
    assert metadata["version"] == "0.5"
    [multiscale] = metadata["multiscales"]
    assert {axis["unit"] for axis in multiscale["axes"]} == {"micrometer"}
    scale, translation = multiscale["datasets"][1]["coordinateTransformations"]
    assert scale["scale"] == [0.5, 1.0]  # level 1; a pixel is 0.25 µm high and 0.5 µm wide
    assert translation["translation"] == [1.0, 4.0]  # where the extent starts
    colours = {item["label-value"]: item["rgba"] for item in metadata["image-label"]["colors"]}
    assert colours[2] == [*class_colour(1), 255]
    assert colours[NODATA][3] == 0


def test_a_slide_has_a_probability_image_of_averages(tmp_path):
    result = ArrayResult(1301, 600, georef=SLIDE)
    write_mask_zarr(tmp_path / "m.zarr", result, result.whole)
    open_ome_zarr(zarr.open_group(tmp_path / "m.zarr" / "probability", mode="r"))
    [node] = images(tmp_path / "m.zarr" / "probability")
    full, half = (np.asarray(level) for level in node.data)
    probability = result.cut(result.whole)[1]
    np.testing.assert_array_equal(full, probability)
    means = probability[:, :1300].reshape(2, 650, 2, 300, 2).mean(axis=(2, 4))
    assert half.shape == (2, 651, 300)
    np.testing.assert_allclose(half[:, :650], means, atol=0.5)
    edge = probability[:, 1300].reshape(2, 300, 2).mean(axis=2)
    np.testing.assert_allclose(half[:, 650], edge, atol=0.5)
    assert node.metadata["channel_names"] == ["building", "road"]
    shift = node.metadata["coordinateTransformations"][1][1]["translation"]
    assert shift == [0.0, 0.125, 0.25]  # half a pixel below: the mean lies between its pixels


def test_a_raster_of_unknown_pixel_size_has_no_unit(tmp_path):
    nowhere = Georef(crs=None, transform=(1, 0, 0, 0, 1, 0), pixel_m=None)
    result = ArrayResult(70, 90, georef=nowhere)
    write_mask_zarr(tmp_path / "m.zarr", result, result.whole)
    axes = zarr.open_group(tmp_path / "m.zarr").attrs["ome"]["multiscales"][0]["axes"]
    assert axes == [{"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
    assert images(tmp_path / "m.zarr")[0].data[0].shape == (70, 90)


@pytest.mark.parametrize("georef", [UTM, SLIDE], ids=["map", "slide"])
def test_the_same_result_gives_the_same_bytes(tmp_path, georef):
    result = ArrayResult(1100, 900, georef=georef)
    for name in ("one.zarr", "two.zarr"):
        write_mask_zarr(tmp_path / name, result, result.whole)
    assert files(tmp_path / "one.zarr") == files(tmp_path / "two.zarr")


@pytest.mark.parametrize("georef", [UTM, SLIDE], ids=["map", "slide"])
def test_probability_can_be_left_out(tmp_path, georef):
    result = ArrayResult(70, 90, georef=georef)
    result.probability = None
    write_mask_zarr(tmp_path / "m.zarr", result, result.whole, probability=False)
    assert "probability" not in zarr.open_group(tmp_path / "m.zarr", mode="r")
    with pytest.raises(OutputError, match="probability of building was not kept"):
        write_mask_zarr(tmp_path / "p.zarr", result, result.whole)
    assert [path.name for path in tmp_path.iterdir()] == ["m.zarr"]


def test_the_result_is_read_in_bounded_windows_that_own_their_chunks(tmp_path):
    result = ArrayResult(STEP_PX + 10, STEP_PX + 700)
    write_mask_zarr(tmp_path / "m.zarr", result, result.whole)
    read = set(result.windows)
    assert max(max(w.height, w.width) for w in read) == STEP_PX
    assert sum(w.area for w in read) == result.whole.area
    chunks = zarr.open_array(tmp_path / "m.zarr" / "mask", mode="r").chunks
    assert all(w.row % chunks[0] == 0 and w.col % chunks[1] == 0 for w in read)


def test_a_full_disk_is_an_error_and_leaves_the_old_folder(tmp_path):
    result = ArrayResult(600, 500)
    write_mask_zarr(tmp_path / "m.zarr", result, result.whole)
    old = files(tmp_path)
    with (
        files_up_to(10_000),
        pytest.raises(OutputError, match=r"cannot write .*m\.zarr: File too large"),
    ):
        write_mask_zarr(tmp_path / "m.zarr", result, result.whole)
    assert files(tmp_path) == old


def test_a_new_result_replaces_an_old_one(tmp_path):
    old, new = ArrayResult(2100, 900, seed=1, georef=SLIDE), ArrayResult(70, 90, seed=2)
    write_mask_zarr(tmp_path / "m.zarr", old, old.whole)
    write_mask_zarr(tmp_path / "m.zarr", new, new.whole)
    group = zarr.open_group(tmp_path / "m.zarr", mode="r")
    np.testing.assert_array_equal(group["mask"][:], new.mask)
    assert "0" not in group
    assert [path.name for path in tmp_path.iterdir()] == ["m.zarr"]
    json.loads((tmp_path / "m.zarr" / "zarr.json").read_text())
