"""Whole runs of the bundled model over real imagery, where the data folder is at hand."""

import json
import os
from dataclasses import replace
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import zarr
from ome_zarr.writer import write_image
from PIL import Image
from rio_cogeo import cog_validate

from tests.rfc7946 import problems
from tilingseg.errors import TilingSegError
from tilingseg.flow import run
from tilingseg.job import RunOptions
from tilingseg.records import NODATA

DATA = Path(
    os.environ.get("TILINGSEG_DATA") or Path(__file__).parents[2] / "shared" / "data"
).resolve()
CPU = RunOptions(device="cpu")
NO_RESULT = {
    "BEFL-TEST-s2_2023-05-01_2023-07-01_B08-B04-B03_min_byte.tif": "20 times too coarse",
    "fields_BEFL-s2-fields-2023_locations.gpkg": "is no raster",
    "fields_BEFL-s2-fields-2023_polygons.gpkg": "is no raster",
    "RGB.byte.tif": "too coarse",
    "RGBA.byte.tif": "too coarse",
    "all-nodata.tif": "too coarse",
    "alpha.tif": "too coarse",
    "corrupt.tif": r"tile 0 at row 0 px.*may be truncated or damaged",
    "float_nan.tif": r"has 1 band .*--bands 1,1,1",
    "rotated.tif": r"has 1 band .*--bands 1,1,1",
    "m_4709963_se_14_1_20090818.tif": "10 times too coarse",
    "m_4709963_se_14_1_20200831.tif": "10 times too coarse",
}
"""Scenes that the bundled model cannot be used on, and what the error says."""


def real(name):
    if not (DATA / name).exists():
        pytest.skip(f"needs the data set file {name}, found by TILINGSEG_DATA")
    return DATA / name


def check(folder, name):
    """What holds for every run: a valid COG, counts that agree, nothing vectorised from nodata."""
    path = folder / f"{name}_mask.tif"
    assert cog_validate(str(path), quiet=True) == (True, [], [])
    with rasterio.open(path) as dataset:
        mask = dataset.read(1)
    assert set(np.unique(mask)) <= {0, 1, 2, NODATA}
    report = json.loads((folder / "run.json").read_text())["report"]
    assert report["n_pixels_nodata"] == (mask == NODATA).sum()
    assert report["n_pixels_valid"] == (mask != NODATA).sum()
    return mask


def test_drone_scene(tmp_path):
    scene = real("banepa/banepa_full_jpeg_cog.tif")
    with rasterio.open(scene) as dataset:
        left, _, _, top = dataset.bounds
    run(scene, tmp_path, options=replace(CPU, box=(left + 200, top - 500, left + 500, top - 300)))
    check(tmp_path, scene.stem)
    for path in tmp_path.glob("*.geojson"):
        assert problems(path.read_text()) == []
    frame = geopandas.read_file(tmp_path / f"{scene.stem}_building.geojson")
    assert frame.crs.to_epsg() == 4326
    assert len(frame) > 20
    metric = frame.to_crs(32645).area.to_numpy()
    assert metric == pytest.approx(frame.area_m2.to_numpy(), rel=0.01, abs=0.5)


def test_mosaic_of_photos_without_georeference(tmp_path):
    names = [f"dubai/images/tile3_part00{k}.jpg" for k in (1, 2, 3)]
    sizes = [photo_of(name).shape[1:] for name in names]
    vrt = tmp_path / "mosaic.vrt"
    vrt.write_text(side_by_side([real(name) for name in names], sizes))
    run(vrt, tmp_path / "out", options=replace(CPU, pixel_m=1.0))
    mask = check(tmp_path / "out", "mosaic")
    height, width = max(h for h, _ in sizes), sum(w for _, w in sizes)
    assert mask.shape == (2 * height, 2 * width)
    assert (mask == 1).sum() > 1000


def photo_of(name):
    """A photo as uint8 (3, height, width)."""
    return np.moveaxis(np.asarray(Image.open(real(name))), 2, 0)


def side_by_side(paths, sizes):
    """A VRT of photos in one row."""
    bands = []
    for band, colour in enumerate(("Red", "Green", "Blue"), 1):
        sources, col = [], 0
        for path, (height, width) in zip(paths, sizes, strict=True):
            sources.append(
                f"<SimpleSource><SourceFilename>{path}</SourceFilename>"
                f"<SourceBand>{band}</SourceBand>"
                f'<SrcRect xOff="0" yOff="0" xSize="{width}" ySize="{height}"/>'
                f'<DstRect xOff="{col}" yOff="0" xSize="{width}" ySize="{height}"/></SimpleSource>'
            )
            col += width
        bands.append(
            f'<VRTRasterBand dataType="Byte" band="{band}"><ColorInterp>{colour}</ColorInterp>'
            f"{''.join(sources)}</VRTRasterBand>"
        )
    height, width = max(h for h, _ in sizes), sum(w for _, w in sizes)
    return f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">{"".join(bands)}</VRTDataset>'


def test_ome_zarr_written_by_its_own_package(tmp_path):
    photo = photo_of("dubai/images/tile3_part001.jpg")
    group = zarr.create_group(tmp_path / "photo.zarr")
    write_image(
        photo,
        group,
        axes="cyx",
        axes_units={"y": "meter", "x": "meter"},
        scale={"c": 1.0, "y": 1.0, "x": 1.0},
    )
    run(tmp_path / "photo.zarr", tmp_path / "out", options=CPU)
    mask = check(tmp_path / "out", "photo")
    assert mask.shape == (2 * photo.shape[1], 2 * photo.shape[2])


def test_medical_scene_of_uint16(tmp_path):
    scene = real("medical/nist_cells/images/img_000580.tif")
    report = run(scene, tmp_path, options=replace(CPU, bands=(1, 1, 1)))
    check(tmp_path, scene.stem)
    assert any("percentiles" in note for note in report.notes)
    cells = json.loads((tmp_path / f"{scene.stem}_building.geojson").read_text())
    assert all("objectType" in feature["properties"] for feature in cells["features"])


@pytest.mark.parametrize(
    "path",
    sorted(path for path in DATA.glob("scenes/*/*") if path.is_file()),
    ids=lambda path: path.name,
)
def test_every_small_scene_gives_a_result_or_one_clear_line(tmp_path, path):
    if path.name in NO_RESULT:
        with pytest.raises(TilingSegError, match=NO_RESULT[path.name]) as caught:
            run(path, tmp_path / "out", options=CPU)
        assert "\n" not in str(caught.value)
        assert not list(tmp_path.glob("out/*.tif"))
    else:
        run(path, tmp_path / "out", options=CPU)
        check(tmp_path / "out", path.stem)
