"""Real scenes of many makers, and what must hold for all of them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio

from tests.contracts import assert_same_bits, read_whole, some_windows
from tests.readers.test_geotiff import oracle_weights, random_pixels, write
from tilingseg.errors import SceneError
from tilingseg.readers import open_scene
from tilingseg.readers.source import scene_name

DATA = Path(
    os.environ.get("TILINGSEG_DATA") or Path(__file__).parents[3] / "shared" / "data"
).resolve()

OPENED = {
    "scenes/deepness/dummy_fotomap_small.tif": ("EPSG:32633", 0.020, 1.0),
    "scenes/opengeos_naip_5m/m_4709963_se_14_1_20090818.tif": ("EPSG:26914", 5.002, 1.0),
    "scenes/opengeos_naip_5m/m_4709963_se_14_1_20200831.tif": ("EPSG:26914", 5.002, 1.0),
    "scenes/ortho/BEFL-TEST-s2_2023-05-01_2023-07-01_B08-B04-B03_min_byte.tif": (
        "EPSG:32631",
        10.004,
        1.0,
    ),
    "scenes/rasterio/RGB.byte.tif": ("EPSG:32618", 299.87, 0.675),
    "scenes/rasterio/RGBA.byte.tif": ("EPSG:32618", 299.87, 0.675),
    "scenes/rasterio/RGBA.uint16.tif": ("EPSG:32612", 1.379, 0.489),
    "scenes/rasterio/all-nodata.tif": ("EPSG:32628", 3.0, 0.0),
    "scenes/rasterio/alpha.tif": ("EPSG:3857", 3.084, 0.016),
    "scenes/rasterio/cogeo.tif": ("EPSG:3857", 0.472, 1.0),
    "scenes/rasterio/float_nan.tif": (None, None, 5 / 6),
    "scenes/rasterio/rotated.tif": (None, None, 1.0),
    "medical/wsi_and_ome/CMU-1-Small-Region.svs": (None, 0.499e-6, 1.0),
    "medical/wsi_and_ome/multi-channel-z-series.ome.tif": (None, None, 1.0),
    "medical/nist_cells/images/img_131480.tif": (None, None, 1.0),
    "medical/isbi2012_em/test_unlabelled/15.png": (None, None, 1.0),
    "zanzibar/zanzibar_sample_rgb.tif": ("EPSG:32737", 0.0775, 1.0),
}
"""File: CRS, ground or physical pixel in metres, share of valid pixels."""

REFUSED = {
    "medical/wsi_and_ome/dicom_test_image.dcm": "is no raster in a format that GDAL .* reads",
    "scenes/ortho/fields_BEFL-s2-fields-2023_polygons.gpkg": "is no raster in a format",
    "scenes/ortho/fields_BEFL-s2-fields-2023_locations.gpkg": "is no raster in a format",
}


def real(name):
    if not (DATA / name).is_file():
        pytest.skip(f"needs the data set file {name}, found by TILINGSEG_DATA")
    return DATA / name


@pytest.mark.parametrize("name", OPENED)
def test_a_real_scene_is_opened(name):
    crs, gsd_m, share = OPENED[name]
    reader = open_scene(real(name))
    scene = reader.scene
    assert scene.georef.crs == crs
    assert scene.georef.gsd_m == (None if gsd_m is None else pytest.approx(gsd_m, rel=0.01))
    pixels, valid = read_whole(reader)
    assert valid.mean() == pytest.approx(share, abs=0.005)
    for window in some_windows(scene.height, scene.width, count=8):
        part, part_valid = reader.read(window)
        rows, cols = slice(window.row, window.row_stop), slice(window.col, window.col_stop)
        np.testing.assert_array_equal(part_valid, valid[rows, cols])
        assert_same_bits(part, pixels[:, rows, cols], part_valid)
    reader.close()


@pytest.mark.parametrize("name", REFUSED)
def test_a_real_file_that_is_no_scene_is_refused(name):
    with pytest.raises(SceneError) as error:
        open_scene(real(name))
    assert re.search(REFUSED[name], str(error.value))
    assert "\n" not in str(error.value)


def test_a_real_truncated_file_names_what_is_lost():
    reader = open_scene(real("scenes/rasterio/corrupt.tif"))
    with pytest.raises(SceneError, match=r"rows 0…1023, columns 0…1023 cannot be read"):
        read_whole(reader)


@pytest.mark.parametrize("name", ["RGBA.byte.tif", "RGB.byte.tif", "alpha.tif", "cogeo.tif"])
def test_validity_is_that_of_rasterio(name):
    path = real(f"scenes/rasterio/{name}")
    with rasterio.open(path) as dataset:
        expected = dataset.dataset_mask() > 0
    np.testing.assert_array_equal(read_whole(open_scene(path))[1], expected)


def test_another_image_of_a_file_is_read_by_the_name_that_the_note_gives():
    path = real("medical/wsi_and_ome/multi-channel-z-series.ome.tif")
    first = open_scene(path)
    note = next(note for note in first.scene.notes if "holds 15 images" in note)
    other = open_scene(re.search(r"such as (.*)\)\.", note)[1])
    assert other.scene.source_shape == first.scene.source_shape
    assert not np.array_equal(read_whole(other)[0], read_whole(first)[0])


@pytest.mark.parametrize("name", ["", " "])
def test_a_scene_without_a_name_is_refused(name):
    with pytest.raises(SceneError, match="name of the raster is empty"):
        open_scene(name)


def test_a_slide_label_is_no_overview():
    reader = open_scene(real("medical/wsi_and_ome/CMU-1-Small-Region.svs"))
    reduced, _ = reader.read_reduced(200)
    pixels, _ = read_whole(reader)
    rows, cols = (
        oracle_weights(n, n / n_reduced)
        for n, n_reduced in zip(pixels.shape[1:], reduced.shape[1:], strict=True)
    )
    np.testing.assert_allclose(reduced, rows @ pixels @ cols.T, atol=1)


def test_a_real_scene_keeps_its_ground_size_when_resampled():
    path = real("banepa/banepa_full_jpeg_cog.tif")
    scene = open_scene(path, band_names=("red", "green", "blue"), gsd_m=0.3).scene
    assert scene.source.gsd_m == pytest.approx(0.132, abs=0.001)
    along_x, along_y = scene.source.pixel_m
    assert scene.width * 0.3 == pytest.approx(scene.source_shape[1] * along_x, abs=0.3)
    assert scene.height * 0.3 == pytest.approx(scene.source_shape[0] * along_y, abs=0.3)


def test_memory_does_not_grow_with_the_scene(tmp_path):
    # Blocks that were never written take no place in the file, but all of it in memory.
    path = tmp_path / "scene.tif"
    profile = {"sparse_ok": True, "blockxsize": 512, "blockysize": 512, "photometric": "rgb"}
    write(path, random_pixels(3, "uint8", (1, 1)), tiled=None, blockxsize=None, blockysize=None)
    with rasterio.open(path) as small:
        profile = dict(small.profile) | profile
    profile |= {"width": 16_384, "height": 16_384, "tiled": True}
    with rasterio.open(path, "w", **profile):
        pass
    program = (
        "import resource, sys\n"
        "from tilingseg.grid import Window\n"
        "from tilingseg.readers import open_scene\n"
        "reader = open_scene(sys.argv[1])\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "reader.read(Window(row=0, col=0, height=1, width=1))\n"
        "before = peak()\n"
        "for row in range(0, 16_384, 1024):\n"
        "    for col in range(0, 16_384, 1024):\n"
        "        reader.read(Window(row=row, col=col, height=1024, width=1024))\n"
        "print(peak() - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    )
    # 805 MB pass through; GDAL may keep 256 MB of them.
    assert int(done.stdout) < 400


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("https://host/a/scene.ome.tif?key=1", "scene"),
        ("/maps/north 1.zarr.zip", "north_1"),
        ("/maps/काठमांडू.tif", "काठमांडू"),
        ("/maps/กรุงเทพ.tif", "กรุงเทพ"),
        ("/maps/Ko\N{COMBINING DIAERESIS}ln.tif", "Köln"),
        ("/maps/\N{ANGSTROM SIGN}.tif", "\N{ANGSTROM SIGN}"),
    ],
)
def test_results_are_named_after_the_scene(uri, name):
    assert scene_name(uri) == name
