"""Rasters and labels of a recipe, against what was written into the files."""

from __future__ import annotations

import warnings

import geopandas
import numpy as np
import pytest
import rasterio
from scipy import ndimage
from shapely import LineString, box

from tilingseg.errors import TrainingError
from tilingseg.training.labels import count_blocks, held_out_blocks
from tilingseg.training.leaks import refuse_leaks
from tilingseg.training.loop import train
from tilingseg.training.losses import UNKNOWN, LossOptions
from tilingseg.training.recipe import ClassLabel, Schedule, SourceRecipe, TrainingRecipe
from tilingseg.training.sources import (
    load_sources,
    refuse_absent_classes,
    refuse_without_background,
)

CRS = "EPSG:32633"


def write_raster(path, values, *, pixel_m=1.0, origin=(500_000, 5_000_000), crs=CRS, nodata=None):
    values = values if values.ndim == 3 else values[None]
    transform = rasterio.Affine(pixel_m, 0, origin[0], 0, -pixel_m, origin[1])
    profile = {"count": len(values), "height": values.shape[1], "width": values.shape[2]}
    profile |= {"dtype": values.dtype, "crs": crs, "nodata": nodata}
    if crs:
        profile["transform"] = transform
    with rasterio.open(path, "w", driver="GTiff", **profile) as dataset:
        dataset.write(values)


def make_recipe(*sources, gsd_m=1.0, one=False):
    return TrainingRecipe(
        name="t",
        classes=("building",) if one else ("building", "road"),
        bands=("red", "green", "blue"),
        gsd_m=gsd_m,
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
        sources=sources,
        schedule=Schedule(steps=1),
        loss=LossOptions(),
    )


def make_source(**changes):
    settings = {
        "name": "here",
        "split": "train",
        "rasters": "*_rgb.tif",
        "mask": "{}_mask.tif",
        "classes": (ClassLabel(name="building", values=(1,)),),
        "licence": "CC0",
    }
    return SourceRecipe(**(settings | changes))


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    write_raster(tmp_path / "a_rgb.tif", rng.integers(1, 255, (3, 40, 50), dtype=np.uint8))
    mask = rng.integers(0, 4, (40, 50), dtype=np.uint8)
    mask[:, 45:] = 255
    write_raster(tmp_path / "a_mask.tif", mask)
    return tmp_path


def stored(path):
    with rasterio.open(path) as dataset:
        return dataset.read()


def test_classes_are_read_from_their_values_and_the_rest_is_unknown(folder):
    classes = (ClassLabel(name="road", values=(2, 3)),)
    (raster,) = load_sources(make_recipe(make_source(classes=classes)), folder, "train")
    mask = stored(folder / "a_mask.tif")[0][:, :45]
    assert raster.name == "a_rgb"
    assert raster.gsd_m == pytest.approx(1.0, rel=1e-3)
    np.testing.assert_array_equal(raster.pixels, stored(folder / "a_rgb.tif")[:, :, :45])
    assert (raster.labels[0] == UNKNOWN).all()
    np.testing.assert_array_equal(raster.labels[1], np.isin(mask, (2, 3)))


def test_a_class_may_be_unlabelled_under_some_values(folder):
    classes = (
        ClassLabel(name="building", values=(), unlabelled=(0,)),
        ClassLabel(name="road", values=(1,)),
    )
    (raster,) = load_sources(make_recipe(make_source(classes=classes)), folder, "train")
    mask = stored(folder / "a_mask.tif")[0][:, :45]
    np.testing.assert_array_equal(raster.labels[0], np.where(mask == 0, UNKNOWN, 0))
    np.testing.assert_array_equal(raster.labels[1], mask == 1)


def test_a_mask_that_covers_a_part_selects_that_part(folder):
    part = np.ones((10, 12), np.uint8)
    part[0] = 0
    write_raster(folder / "a_mask.tif", part, origin=(500_020, 4_999_985))
    (raster,) = load_sources(make_recipe(make_source()), folder, "train")
    np.testing.assert_array_equal(raster.labels[0], part)
    np.testing.assert_array_equal(raster.pixels, stored(folder / "a_rgb.tif")[:, 15:25, 20:32])
    (lower,) = load_sources(make_recipe(make_source(rows=(0.5, 1.0))), folder, "train")
    np.testing.assert_array_equal(lower.pixels, raster.pixels[:, 5:])


def test_pixels_without_data_have_no_label(folder):
    pixels = stored(folder / "a_rgb.tif")
    pixels[:, :7] = 0
    write_raster(folder / "a_rgb.tif", pixels, nodata=0)
    (raster,) = load_sources(make_recipe(make_source()), folder, "train")
    assert not raster.valid[:7].any()
    assert raster.valid[7:].all()
    assert (raster.labels[:, :7] == UNKNOWN).all()
    assert (raster.labels[0, 7:] != UNKNOWN).all()


def test_finer_rasters_come_at_the_gsd_of_the_model(folder):
    rng = np.random.default_rng(1)
    pixels = rng.integers(1, 255, (3, 80, 100), dtype=np.uint8)
    write_raster(folder / "a_rgb.tif", pixels, pixel_m=0.25)
    blocks = np.kron(rng.integers(0, 2, (5, 5)), np.ones((8, 10))).astype(np.uint8)
    write_raster(folder / "a_mask.tif", np.kron(blocks, np.ones((2, 2), np.uint8)), pixel_m=0.25)
    (raster,) = load_sources(make_recipe(make_source(), gsd_m=0.5), folder, "train")
    assert raster.gsd_m == pytest.approx(0.5, rel=1e-3)
    # The projection stretches the ground by 0.04 %: the grids agree nearly, not to the bit.
    mean = pixels.reshape(3, 40, 2, 50, 2).mean((2, 4))
    assert np.abs(raster.pixels[:, :40, :50] - mean).mean() < 2
    assert (raster.labels[0, :40, :50] == blocks).mean() > 0.97


def test_coarser_rasters_keep_their_pixels(folder):
    (raster,) = load_sources(make_recipe(make_source(), gsd_m=0.5), folder, "train")
    assert raster.gsd_m == pytest.approx(1.0, rel=1e-3)
    assert raster.pixels.shape == (3, 40, 45)


def test_oblong_pixels_are_brought_to_the_square_ones_of_the_model(folder):
    # At 60° N these are 0.56 m × 1.11 m: the class is a square of 11 m.
    mask = np.zeros((40, 80), np.uint8)
    mask[20:30, 30:50] = 1
    for name, values in (("rgb", np.full((3, 40, 80), 9, np.uint8)), ("mask", mask[None])):
        profile = {"count": len(values), "height": 40, "width": 80, "dtype": "uint8"}
        profile |= {"crs": "EPSG:4326", "transform": rasterio.Affine(1e-5, 0, 10, 0, -1e-5, 60)}
        with rasterio.open(folder / f"a_{name}.tif", "w", **profile) as dataset:
            dataset.write(values)
    (raster,) = load_sources(make_recipe(make_source(), gsd_m=0.6, one=True), folder, "train")
    rows, cols = np.nonzero(raster.labels[0] == 1)
    assert raster.gsd_m == 0.6
    assert np.ptp(rows) + 1 == pytest.approx(11.1 / 0.6, abs=1)
    assert np.ptp(cols) + 1 == pytest.approx(11.1 / 0.6, abs=1)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_files_without_a_crs_take_the_size_that_the_recipe_gives(tmp_path):
    rng = np.random.default_rng(2)
    (tmp_path / "img").mkdir()
    (tmp_path / "lab").mkdir()
    for stem in ("1-x", "2-x", "2-y"):
        pixels = rng.integers(1, 255, (3, 20, 30), dtype=np.uint8)
        write_raster(tmp_path / "img" / f"{stem}.tif", pixels, crs=None)
        write_raster(tmp_path / "lab" / f"x{stem}.tif", pixels[0] % 2, crs=None)
    source = make_source(
        rasters="img/*-*.tif", mask="lab/x{}-{}.tif", include=("2*",), exclude=("*y.tif",)
    )
    with pytest.raises(TrainingError, match="give gsd_m for 'here'"):
        load_sources(make_recipe(source), tmp_path, "train")
    source = make_source(rasters="img/*-*.tif", mask="lab/x{}-{}.tif", include=("2*",), gsd_m=2.0)
    first, second = load_sources(make_recipe(source), tmp_path, "train")
    assert (first.name, second.name) == ("2-x", "2-y")
    assert first.gsd_m == 2.0
    np.testing.assert_array_equal(second.labels[0], stored(tmp_path / "lab" / "x2-y.tif")[0])


def test_polygons_are_burnt_in_whatever_their_crs(folder):
    left, top = 500_000, 5_000_000
    houses = geopandas.GeoDataFrame(
        geometry=[box(left + 3, top - 9, left + 7, top - 5), None], crs=CRS
    )
    houses.to_crs(4326).to_file(folder / "a.geojson")
    classes = (ClassLabel(name="building", vectors="{}.geojson"),)
    recipe = make_recipe(make_source(mask=None, classes=classes))
    (raster,) = load_sources(recipe, folder, "train")
    expected = np.zeros((40, 50), np.uint8)
    expected[5:9, 3:7] = 1
    np.testing.assert_array_equal(raster.labels[0], expected)
    assert set(map(tuple, raster.anchors[0])) == set(map(tuple, np.argwhere(expected)))


def test_splits_are_kept_apart(folder):
    recipe = make_recipe(make_source(), make_source(split="validation", rows=(0.5, 1.0)))
    (held_out,) = load_sources(recipe, folder, "validation")
    assert held_out.pixels.shape[1] == 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rasters": "*.jp2"}, "no file matches"),
        ({"exclude": ("*",)}, "exclude leave none"),
        ({"mask": "{}_absent.tif"}, "mask .*a_absent.tif cannot be read"),
        ({"classes": (ClassLabel(name="road", vectors="{}.gpkg"),)}, "labels .*a.gpkg cannot be"),
        (
            {"classes": (ClassLabel(name="road", values=(), unlabelled=(0, 1, 2, 3)),)},
            "nothing in .* is labelled",
        ),
    ],
)
def test_unusable_sources_are_named(folder, changes, message):
    with pytest.raises(TrainingError, match=message):
        load_sources(make_recipe(make_source(**changes)), folder, "train")


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_mask_of_another_shape_is_refused(folder):
    write_raster(folder / "a_mask.tif", np.ones((40, 40), np.uint8), crs=None)
    with pytest.raises(TrainingError, match="40 × 40 px, which does not fit a_rgb of 40 × 50"):
        load_sources(make_recipe(make_source()), folder, "train")


def test_a_mask_in_black_and_white_has_255_as_a_class(folder):
    mask = np.zeros((40, 50), np.uint8)
    mask[10:20, 5:30] = 255
    write_raster(folder / "a_mask.tif", mask)
    classes = (ClassLabel(name="building", values=(255,)),)
    source = make_source(classes=classes, unlabelled=())
    (raster,) = load_sources(make_recipe(source), folder, "train")
    np.testing.assert_array_equal(raster.labels[0], mask == 255)


@pytest.mark.parametrize("crs", [CRS, None])
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_the_recipe_decides_what_a_mask_means_by_nodata(folder, crs):
    mask = np.zeros((40, 50), np.uint8)
    mask[10:20, 5:30] = 1
    write_raster(folder / "a_mask.tif", mask, nodata=0, crs=crs)
    write_raster(folder / "a_rgb.tif", np.full((3, 40, 50), 9, np.uint8), crs=crs)

    def labels(**changes):
        recipe = make_recipe(make_source(gsd_m=1.0, **changes), one=True)
        (raster,) = load_sources(recipe, folder, "train")
        return raster.labels[0]

    with pytest.raises(
        TrainingError,
        match=r"a_mask.tif calls its value 0 nodata: give source 'here' unlabelled = \[0, 255\] if "
        r"nobody labelled those pixels, or unlabelled = \[255\] if they are background",
    ):
        labels()
    np.testing.assert_array_equal(labels(unlabelled=(255,)), mask)
    np.testing.assert_array_equal(labels(unlabelled=(0, 255)), np.ones((10, 25)))
    write_raster(folder / "a_mask.tif", mask + 1, nodata=0, crs=crs)  # declared, and nowhere
    np.testing.assert_array_equal(labels(classes=(ClassLabel(name="building", values=(2,)),)), mask)


@pytest.mark.parametrize("crs", [CRS, None])
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_background_that_a_mask_calls_nodata_has_its_vote(folder, crs):
    mask = np.zeros((80, 100), np.uint8)
    mask[::8] = 1  # lines of a pixel, of which the model sees a quarter
    mask[24:48, 48:72] = 1
    write_raster(folder / "a_rgb.tif", np.full((3, 80, 100), 9, np.uint8), pixel_m=0.25, crs=crs)
    source = make_source(gsd_m=None if crs else 0.25, unlabelled=())
    found = []
    for nodata in (None, 0):
        write_raster(folder / "a_mask.tif", mask, pixel_m=0.25, crs=crs, nodata=nodata)
        (raster,) = load_sources(make_recipe(source, one=True), folder, "train")
        found.append(raster.labels[0])
    np.testing.assert_array_equal(*found)
    assert (found[0] == 1).mean() == pytest.approx(24 * 24 / 8000, rel=0.2)


def test_a_class_without_background_is_refused(folder):
    origins = {"a": (500_000, 5_000_000), "b": (600_000, 5_000_000)}
    write_raster(folder / "b_rgb.tif", stored(folder / "a_rgb.tif"), origin=origins["b"])
    recipe = make_recipe(
        make_source(include=("a*",)),
        make_source(name="there", split="validation", include=("b*",)),
        one=True,
    )

    def write_mask(name, *, background):
        mask = np.ones((40, 50), np.uint8)
        mask[:, 0] = 0 if background else 1
        write_raster(folder / f"{name}_mask.tif", mask, origin=origins[name])

    write_mask("a", background=False)
    write_mask("b", background=False)
    with pytest.raises(TrainingError, match="no training raster holds a pixel that is known not"):
        train(recipe, folder, folder / "out")
    write_mask("a", background=True)
    with pytest.raises(TrainingError, match="held-out source 'there' holds no pixel that is known"):
        train(recipe, folder, folder / "out")
    write_mask("b", background=True)
    rasters = [load_sources(recipe, folder, split) for split in ("train", "validation")]
    refuse_without_background(recipe, *rasters)


def test_only_the_labelled_area_says_anything(folder):
    left, top = 500_000, 5_000_000
    area = box(left + 10, top - 30, left + 40, top - 10)
    frame_of(area).to_crs(4326).to_file(folder / "a_area.geojson")
    frame_of(box(left + 5, top - 20, left + 20, top - 5)).to_file(folder / "a.gpkg")
    classes = (
        ClassLabel(name="building", values=(1,)),
        ClassLabel(name="road", vectors="{}.gpkg"),
    )
    source = make_source(classes=classes, labelled="{}_area.geojson")
    (raster,) = load_sources(make_recipe(source), folder, "train")
    np.testing.assert_array_equal(
        raster.labels[0], stored(folder / "a_mask.tif")[0][10:30, 10:40] == 1
    )
    road = np.zeros((20, 30))
    road[:10, :10] = 1
    np.testing.assert_array_equal(raster.labels[1], road)
    np.testing.assert_array_equal(raster.pixels, stored(folder / "a_rgb.tif")[:, 10:30, 10:40])
    triangle = area.intersection(box(left, top - 20, left + 25, top))
    frame_of(area.difference(triangle)).to_crs(4326).to_file(folder / "a_area.geojson")
    (raster,) = load_sources(make_recipe(source), folder, "train")
    assert (raster.labels[:, :10, :15] == UNKNOWN).all()
    assert (raster.labels[:, 10:] != UNKNOWN).all()


def test_a_labelled_area_elsewhere_is_refused(folder):
    frame_of(box(6e5, 5e6, 6e5 + 9, 5e6 + 9)).to_file(folder / "area.gpkg")
    with pytest.raises(TrainingError, match="area.gpkg lie at 600000,.* do not overlap a_rgb"):
        load_sources(make_recipe(make_source(labelled="area.gpkg")), folder, "train")
    frame_of(box(1, 1, 2, 2)).iloc[:0].to_file(folder / "area.gpkg")
    with pytest.raises(TrainingError, match="nothing in .*a_rgb.tif is labelled"):
        load_sources(make_recipe(make_source(labelled="area.gpkg")), folder, "train")


def test_unlabelled_values_of_a_mask_silence_vectors_too(folder):
    mask = np.zeros((40, 50), np.uint8)
    mask[:, 45:] = 7
    mask[20:] = 255
    write_raster(folder / "a_mask.tif", mask)
    frame_of(POLYGON).to_file(folder / "a.gpkg")
    classes = (
        ClassLabel(name="building", vectors="{}.gpkg", unlabelled=(7,)),
        ClassLabel(name="road", values=()),
    )
    (raster,) = load_sources(make_recipe(make_source(classes=classes)), folder, "train")
    expected = np.zeros((20, 50), np.uint8)
    expected[10:20, 5:20] = 1
    expected[:, 45:] = UNKNOWN
    np.testing.assert_array_equal(raster.labels[0], expected)
    assert (raster.labels[1] == 0).all()


def test_lines_are_as_wide_as_the_recipe_says(folder):
    left, top = 500_000, 5_000_000
    road = LineString([(left - 9, top - 20), (left + 99, top - 20)])
    frame_of(road).to_crs(4326).to_file(folder / "a.geojson")
    classes = (ClassLabel(name="road", vectors="{}.geojson", width_m=6.0),)
    (raster,) = load_sources(make_recipe(make_source(mask=None, classes=classes)), folder, "train")
    expected = np.zeros((40, 50), np.uint8)
    expected[17:23] = 1
    np.testing.assert_array_equal(raster.labels[1], expected)


def test_a_recipe_without_a_gsd_takes_pixels_as_they_are(folder):
    (raster,) = load_sources(make_recipe(make_source(), gsd_m=None), folder, "train")
    assert raster.gsd_m == 1.0
    np.testing.assert_array_equal(raster.pixels, stored(folder / "a_rgb.tif")[:, :, :45])
    assert make_recipe(make_source(), gsd_m=None).spec().gsd_m is None


def test_blocks_are_learnt_or_measured_and_never_both(folder):
    write_raster(folder / "a_mask.tif", np.ones((40, 50), np.uint8))
    write_raster(folder / "a_rgb.tif", np.full((3, 40, 50), 9, np.uint8), pixel_m=4.0)
    write_raster(folder / "a_mask.tif", np.ones((40, 50), np.uint8), pixel_m=4.0)
    source = make_source(split="blocks", block_px=100, held_out=0.25)
    recipe = make_recipe(source, gsd_m=1.0)
    (learnt,) = load_sources(recipe, folder, "train")
    (measured,) = load_sources(recipe, folder, "validation")
    assert load_sources(recipe, folder, "test") == ()
    known = measured.labels[0] != UNKNOWN
    assert known.sum() == 20 * 25  # one of 2 × 2 blocks of about 100 m
    assert measured.valid.all()  # what is around it may be seen
    near = ndimage.distance_transform_edt(~known) <= 16
    np.testing.assert_array_equal(learnt.valid, ~near)
    np.testing.assert_array_equal(learnt.labels[0] == 1, ~near)
    again = load_sources(recipe, folder, "validation")[0].labels
    np.testing.assert_array_equal(again, measured.labels)
    refuse_leaks((learnt,), (measured,))
    small = make_recipe(make_source(split="blocks", block_px=512))
    with pytest.raises(TrainingError, match="less than two blocks of 128 px; choose a smaller"):
        load_sources(small, folder, "train")


def test_the_same_ground_is_held_out_at_any_pixel_size():
    recipe = make_recipe(make_source(split="blocks", block_px=64, held_out=0.3), gsd_m=0.5)
    (source,) = recipe.sources
    blocks = count_blocks((101, 160), 1.0, "a.tif", source, recipe)
    coarse = held_out_blocks((101, 160), blocks, "a.tif", source, recipe)
    fine = held_out_blocks((202, 320), blocks, "a.tif", source, recipe)
    differs = np.kron(coarse, np.ones((2, 2), bool)) != fine
    assert differs.mean() < 0.01  # the lines between blocks may fall half a pixel apart
    assert 0.2 < coarse.mean() < 0.4


POLYGON = box(500_005, 4_999_970, 500_020, 4_999_990)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (lambda: frame_of(POLYGON).set_crs(None, allow_override=True), "have no CRS, a_rgb is in"),
        (lambda: frame_of(box(6e5, 5e6, 6e5 + 9, 5e6 + 9)), "do not overlap a_rgb at 500000,"),
        (lambda: frame_of(box(1, 2, 3, 4)).set_crs(4326, allow_override=True), "do not overlap"),
    ],
)
def test_vectors_that_lie_elsewhere_are_refused(folder, frame, message):
    with warnings.catch_warnings(action="ignore"):  # a missing CRS is what is tested
        frame().to_file(folder / "a.gpkg")
    classes = (ClassLabel(name="building", vectors="{}.gpkg"),)
    with pytest.raises(TrainingError, match=message) as caught:
        load_sources(make_recipe(make_source(classes=classes, mask=None)), folder, "train")
    assert "\n" not in str(caught.value)


def frame_of(polygon):
    return geopandas.GeoDataFrame(geometry=[polygon], crs=CRS)


@pytest.mark.parametrize("suffix", ["geojson", "gpkg", "fgb"])
def test_vectors_in_any_crs_are_burnt_at_the_gsd_of_the_model(folder, suffix):
    crs = 4326 if suffix == "geojson" else 3857
    frame_of(POLYGON).to_crs(crs).to_file(folder / f"a.{suffix}")
    classes = (ClassLabel(name="building", vectors=f"{{}}.{suffix}"),)
    source = make_source(classes=classes, mask=None)
    for gsd_m in (1.0, 2.5):
        (raster,) = load_sources(make_recipe(source, gsd_m=gsd_m, one=True), folder, "train")
        assert raster.gsd_m == pytest.approx(gsd_m, rel=1e-3)
        expected = np.zeros((40, 50), np.uint8)
        expected[10:30, 5:20] = 1
        of_class = raster.labels[0]
        if gsd_m == 1.0:
            np.testing.assert_array_equal(of_class, expected)
        else:
            assert of_class.sum() * gsd_m**2 == pytest.approx(expected.sum(), rel=0.1)


def test_vectors_with_a_crs_say_nothing_about_a_picture_without_one(folder):
    frame_of(POLYGON).to_file(folder / "a.gpkg")
    write_raster(folder / "a_rgb.tif", np.full((3, 40, 50), 9, np.uint8), crs=None)
    classes = (ClassLabel(name="building", vectors="{}.gpkg"),)
    with pytest.raises(TrainingError, match="a_rgb has no CRS: give labels in pixels"):
        load_sources(
            make_recipe(make_source(classes=classes, mask=None), gsd_m=None), folder, "train"
        )


def test_a_mask_that_lies_elsewhere_is_refused(folder):
    write_raster(folder / "a_mask.tif", np.ones((9, 9), np.uint8), origin=(600_000, 5_000_000))
    with pytest.raises(TrainingError, match="a_mask.tif does not overlap a_rgb"):
        load_sources(make_recipe(make_source()), folder, "train")


def test_a_class_without_a_pixel_is_refused(folder):
    classes = (ClassLabel(name="building", values=(77,)),)
    recipe = make_recipe(make_source(classes=classes), one=True)
    with pytest.raises(TrainingError, match="no training raster holds a pixel of class 'building'"):
        refuse_absent_classes(recipe, load_sources(recipe, folder, "train"))
    with pytest.raises(TrainingError, match="no training raster holds"):
        train(recipe, folder, folder / "out")


def test_labels_where_there_are_no_data_are_refused(folder):
    write_raster(folder / "a_rgb.tif", np.zeros((3, 40, 50), np.uint8), nodata=0)
    with pytest.raises(TrainingError, match="has no data where it is labelled"):
        load_sources(make_recipe(make_source(), one=True), folder, "train")
