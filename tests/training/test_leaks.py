"""Splits that share or touch ground are refused; others are not."""

from __future__ import annotations

import dataclasses
import os
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from pyproj import Transformer
from scipy import ndimage

from tilingseg.errors import TrainingError
from tilingseg.training.leaks import refuse_leaks
from tilingseg.training.loop import train
from tilingseg.training.recipe import ClassLabel, Schedule, SourceRecipe, TrainingRecipe
from tilingseg.training.sources import load_sources

DATA = Path(os.environ.get("TILINGSEG_DATA", Path(__file__).parents[3] / "shared" / "data"))
SIDE = 128


@pytest.fixture(scope="module")
def town():
    """One large picture with details of all sizes."""
    rng = np.random.default_rng(0)
    layers = [
        ndimage.gaussian_filter(rng.normal(size=(2 * SIDE, 3 * SIDE)), s) * s for s in (1, 3, 9)
    ]
    picture = sum(layers)
    return np.uint8((picture - picture.min()) / np.ptp(picture) * 250)


def make_recipe(rasters, held_out, **changes):
    source = SourceRecipe(
        name="town",
        split="train",
        rasters=rasters,
        mask="mask.png",
        classes=(ClassLabel(name="thing", values=(1,)),),
        licence="drawn",
    )
    return TrainingRecipe(
        name="t",
        classes=("thing",),
        bands=("grey",),
        mean=(0.5,),
        std=(0.2,),
        sources=(source, dataclasses.replace(source, split="validation", rasters=held_out)),
        schedule=Schedule(steps=1, window_px=32, batch_size=1),
        **changes,
    )


def refusal(message):
    return pytest.raises(TrainingError, match=message)


def write(folder, **pictures):
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[40:80, 30:60] = 1
    Image.fromarray(mask).save(folder / "mask.png")
    for name, (pixels, quality) in pictures.items():
        Image.fromarray(pixels).save(folder / f"{name}.jpg", quality=quality)


def check(recipe, folder):
    refuse_leaks(load_sources(recipe, folder, "train"), load_sources(recipe, folder, "validation"))


def test_parts_that_continue_in_each_other_are_refused(town, tmp_path):
    parts = [town[:SIDE, k * SIDE : (k + 1) * SIDE] for k in range(3)]
    below = town[SIDE:, :SIDE]
    write(tmp_path, a=(parts[0], 85), b=(parts[1], 85), c=(parts[2], 85), d=(below, 85))
    for one, other in (("a", "b"), ("b", "a"), ("a", "d"), ("d", "a")):
        with pytest.raises(TrainingError, match=f"'{one}' .* '{other}' .* continue in each other"):
            check(make_recipe(f"{one}.jpg", f"{other}.jpg"), tmp_path)
    check(make_recipe("a.jpg", "c.jpg"), tmp_path)
    with pytest.raises(TrainingError, match="must not be learnt"):
        train(make_recipe("a.jpg", "b.jpg"), tmp_path, tmp_path / "out")


@pytest.mark.parametrize("seen", ["a", "b"])
def test_what_is_kept_for_the_last_measurement_is_neither_learnt_nor_chosen_on(
    town, tmp_path, seen
):
    pictures = [town[:SIDE, :SIDE], town[SIDE:, 2 * SIDE :], town[SIDE:, :SIDE][::-1]]
    write(tmp_path, **{name: (p, 95) for name, p in zip("abc", pictures, strict=True)})
    recipe = make_recipe("a.jpg", "b.jpg")
    test = dataclasses.replace(recipe.sources[0], split="test", rasters=f"{seen}.jpg")
    with pytest.raises(TrainingError, match=f"'{seen}' .* must not be learnt"):
        train(with_source(recipe, test), tmp_path, tmp_path / "out")
    apart = with_source(recipe, dataclasses.replace(test, rasters="c.jpg"))
    assert train(apart, tmp_path, tmp_path / "out").exists()


def with_source(recipe, source):
    return dataclasses.replace(recipe, sources=(*recipe.sources, source))


def test_one_picture_under_two_names_is_refused(town, tmp_path):
    a = town[:SIDE, :SIDE]
    write(tmp_path, a=(a, 95), again=(a, 40), c=(town[SIDE:, 2 * SIDE :], 95))
    with pytest.raises(TrainingError, match="show the same picture"):
        check(make_recipe("a.jpg", "again.jpg"), tmp_path)
    check(make_recipe("a.jpg", "c.jpg"), tmp_path)


@pytest.mark.parametrize(
    ("east_m", "refused"), [(0, True), (100, True), (SIDE, True), (SIDE + 5, False)]
)
def test_ground_that_overlaps_or_touches_on_the_map_is_refused(tmp_path, east_m, refused):
    rng = np.random.default_rng(1)
    write(tmp_path)
    for name, x in (("a", 5e5), ("b", 5e5 + east_m)):
        profile = {"count": 1, "height": SIDE, "width": SIDE, "dtype": "uint8"}
        profile |= {"crs": "EPSG:32633", "transform": rasterio.Affine(1, 0, x, 0, -1, 5e6)}
        with rasterio.open(tmp_path / f"{name}.tif", "w", **profile) as dataset:
            dataset.write(rng.integers(0, 255, (1, SIDE, SIDE), dtype=np.uint8))
    recipe = make_recipe("a.tif", "b.tif")
    with refusal("overlap or touch on the map") if refused else nullcontext():
        check(recipe, tmp_path)


def north_up(x, y, pixel):
    return rasterio.Affine(pixel, 0, x, 0, -pixel, y)


def write_place(folder, name, crs, transform, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 255, (1, SIDE, SIDE), dtype=np.uint8)
    profile = {"count": 1, "height": SIDE, "width": SIDE, "dtype": "uint8"}
    with rasterio.open(
        folder / f"{name}.tif", "w", crs=crs, transform=transform, **profile
    ) as dataset:
        dataset.write(pixels)


@pytest.mark.parametrize(("gap_m", "refused"), [(300, False), (-50, True)])
@pytest.mark.parametrize("other_crs", ["EPSG:32637", "EPSG:3857"])
def test_ground_far_from_the_middle_of_its_zone_is_no_box_in_degrees(
    tmp_path, gap_m, refused, other_crs
):
    """Two tiles of 10 km, at 59.5° N and the edge of a zone, where north is 2.6° off."""
    write(tmp_path)
    west, north, size = 330_000, 6_606_000, 10_000
    write_place(tmp_path, "a", "EPSG:32637", north_up(west, north, size / SIDE))
    transform = north_up(west + size + gap_m, north, size / SIDE)
    if other_crs != "EPSG:32637":  # the affine that brings three corners to where they lie there
        project = Transformer.from_crs("EPSG:32637", other_crs, always_xy=True).transform
        x, y = project(*(transform @ (0, 0)))
        x_right, y_right = project(*(transform @ (SIDE, 0)))
        x_below, y_below = project(*(transform @ (0, SIDE)))
        transform = rasterio.Affine(
            *((x_right - x) / SIDE, (x_below - x) / SIDE, x),
            *((y_right - y) / SIDE, (y_below - y) / SIDE, y),
        )
    write_place(tmp_path, "b", other_crs, transform, seed=1)
    recipe = make_recipe("a.tif", "b.tif")
    with refusal("overlap or touch on the map") if refused else nullcontext():
        check(recipe, tmp_path)


def test_ground_on_both_sides_of_the_date_line_is_one(tmp_path):
    write(tmp_path)
    to_utm = Transformer.from_crs("EPSG:4326", "EPSG:32701", always_xy=True)
    x, y = to_utm.transform(-179.9999, -17)
    write_place(tmp_path, "a", "EPSG:4326", north_up(179.99, -16.99, 1 / 7200))
    write_place(tmp_path, "b", "EPSG:32701", north_up(x - 900, y, 10), seed=1)
    with pytest.raises(TrainingError, match="overlap or touch on the map"):
        check(make_recipe("a.tif", "b.tif"), tmp_path)


@pytest.mark.parametrize(("lon", "refused"), [(10, True), (170, False)])
def test_corners_beside_the_disc_of_the_earth_are_no_traceback(tmp_path, lon, refused):
    write(tmp_path)
    disc, half_m = "+proj=geos +h=35785831 +lon_0=0 +ellps=WGS84", 5_000_000
    write_place(tmp_path, "a", disc, north_up(-half_m, half_m, 2 * half_m / SIDE))
    write_place(tmp_path, "b", "EPSG:4326", north_up(lon, 10, 0.01), seed=1)
    recipe = make_recipe("a.tif", "b.tif")
    with refusal("overlap or touch on the map") if refused else nullcontext():
        check(recipe, tmp_path)


def by_blocks(rasters):
    recipe = make_recipe(rasters, "none")
    source = dataclasses.replace(recipe.sources[0], split="blocks", block_px=32)
    return dataclasses.replace(recipe, sources=(source,))


def test_one_picture_under_two_names_is_refused_within_a_source_that_is_split_by_blocks(
    town, tmp_path
):
    write(tmp_path, a=(town[:SIDE, :SIDE], 95), b=(town[SIDE:, 2 * SIDE :], 95))
    check(by_blocks("*.jpg"), tmp_path)
    write(tmp_path, c=(town[:SIDE, :SIDE], 90))
    with pytest.raises(TrainingError, match="'a' .* 'c' .* show the same picture"):
        check(by_blocks("*.jpg"), tmp_path)


@pytest.mark.parametrize(("east_m", "refused"), [(SIDE - 8, True), (SIDE, False)])
def test_files_that_are_split_by_blocks_may_touch_and_not_overlap(tmp_path, east_m, refused):
    write(tmp_path)
    for seed, (name, x) in enumerate((("a", 5e5), ("b", 5e5 + east_m))):
        write_place(tmp_path, name, "EPSG:32633", north_up(x, 5e6, 1), seed)
    with refusal("'a' .* 'b' .* overlap on the map") if refused else nullcontext():
        check(by_blocks("*.tif"), tmp_path)


@pytest.mark.parametrize(("rows", "refused"), [((0.5, 1.0), True), ((0.6, 1.0), False)])
def test_rows_of_one_file_must_not_touch(town, tmp_path, rows, refused):
    write(tmp_path, a=(town[:SIDE, :SIDE], 95))
    recipe = make_recipe("a.jpg", "a.jpg")
    first, second = recipe.sources
    sources = (dataclasses.replace(first, rows=(0, 0.5)), dataclasses.replace(second, rows=rows))
    recipe = dataclasses.replace(recipe, sources=sources)
    with refusal("overlap or touch in one file") if refused else nullcontext():
        check(recipe, tmp_path)


def test_parts_of_a_real_mosaic_are_found(tmp_path):
    if not (DATA / "dubai").is_dir():
        pytest.skip("needs the Dubai tiles")
    recipe = make_recipe("dubai/images/*.jpg", "dubai/images/*.jpg")
    train, held_out = (
        dataclasses.replace(
            source,
            include=(f"tile{tile}_part00[{part}].jpg",),
            mask="dubai/masks_index/{}.png",
        )
        for source, (tile, part) in zip(recipe.sources, ((3, "1-5"), (3, "6-9")), strict=True)
    )
    recipe = dataclasses.replace(recipe, bands=("red", "green", "blue"), mean=(0.5,) * 3)
    recipe = dataclasses.replace(recipe, std=(0.2,) * 3, sources=(train, held_out))
    with pytest.raises(TrainingError, match="continue in each other"):
        check(recipe, DATA)
    other = dataclasses.replace(held_out, include=("tile2_part00[12].jpg",))
    check(dataclasses.replace(recipe, sources=(train, other)), DATA)
