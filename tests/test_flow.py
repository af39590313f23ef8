import json
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
import torch
from affine import Affine
from shapely.affinity import affine_transform

import tilingseg.flow
from tests.makers import SPEC, make_geotiff, make_model, smooth_noise
from tests.servers import file_server
from tilingseg.decision import Decision
from tilingseg.errors import ModelError, OutputError, PlanError, SceneError, TileError
from tilingseg.flow import open_store, prepare_in, run
from tilingseg.folder_lock import LOCK
from tilingseg.grid import Window
from tilingseg.infer import ReadAhead, TorchEngine
from tilingseg.infer.runtimes import is_installed
from tilingseg.job import RunOptions, prepare
from tilingseg.mask_flow import vectorize
from tilingseg.model.load import load_model
from tilingseg.model.normalize import normalize
from tilingseg.output_folder import WORK, OutputFolder, OutputOptions
from tilingseg.readers.raster import RasterReader
from tilingseg.records import NODATA, Scaling
from tilingseg.store import WorkStore
from tilingseg.tiling import TilingOptions
from tilingseg.vectorize.layers import VectorOptions, layer_names

SHAPE = (700, 900)
RASTERS = OutputOptions(formats=("cog",), probability=True)
CORNER = (500_050.0, 4_999_800.0, 500_100.0, 4_999_850.0)
SMALL_TILES = TilingOptions(tile_size_px=128)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("flow")


@pytest.fixture(scope="module")
def model(folder):
    return make_model(folder / "tiny.safetensors")


@pytest.fixture(scope="module")
def pixels():
    pixels = smooth_noise(*SHAPE)
    pixels[:, :130, :200] = 0  # nodata corner
    pixels[:, 200:, :] = np.maximum(pixels[:, 200:, :], 1)
    return pixels


@pytest.fixture(scope="module")
def scene(folder, pixels):
    return make_geotiff(folder / "scene.tif", pixels, nodata=0)


def options_for(model, **changes):
    """Small tiles, masks and probabilities alone: vectors of noise take their time."""
    return replace(
        RunOptions(model=model, device="cpu", tiling=SMALL_TILES, outputs=RASTERS),
        **changes,
    )


def whole_image(model, pixels):
    """Probabilities of the whole scene in one forward pass, and its valid pixels."""
    loaded = load_model(model)
    valid = ~(pixels == 0).all(axis=0)
    scaling = Scaling(low=(0.0,) * 3, high=(255.0,) * 3, source="")
    with torch.inference_mode():
        batch = normalize(
            torch.from_numpy(pixels)[None], torch.from_numpy(valid)[None], scaling, loaded.spec
        )
        return loaded.module(batch)[0].sigmoid().numpy(), valid


def mask_of(probability, valid, threshold=0.5):
    best = probability.argmax(axis=0)
    mask = np.where(probability.max(axis=0) >= threshold, best + 1, 0)
    return np.where(valid, mask, NODATA)


def read(path):
    with rasterio.open(path) as dataset:
        return dataset.read()


def outputs_of(folder):
    """Every file but run.json, which holds seconds, by its relative name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.json" and f"{WORK}.part" not in path.parts
    }


class TestExactMode:
    def test_equals_whole_image_inference(self, tmp_path, model, scene, pixels):
        run(scene, tmp_path / "out", options=options_for(model))
        probability, valid = whole_image(model, pixels)
        expected = mask_of(probability, valid)
        assert {0, 1, 2, NODATA} <= set(np.unique(expected)), "the scene must show every class"
        assert np.array_equal(read(tmp_path / "out" / "scene_mask.tif")[0], expected)
        found = read(tmp_path / "out" / "scene_probability.tif")
        steps = np.abs(found[:, valid] / 255 - probability[:, valid])
        assert steps.max() <= 0.5 / 255 + 1e-5

    @pytest.mark.parametrize("tile_size", [96, 160, 512, 1024])
    def test_does_not_depend_on_the_tile_size(self, tmp_path, model, scene, pixels, tile_size):
        options = options_for(model, tiling=TilingOptions(tile_size_px=tile_size))
        run(scene, tmp_path / "out", options=options)
        probability, valid = whole_image(model, pixels)
        found = read(tmp_path / "out" / "scene_mask.tif")[0]
        assert np.array_equal(found, mask_of(probability, valid))


def blended_by_brute_force(model, pixels, grid):
    """Blend with a map of summed weights over the whole scene, in float64."""
    loaded = load_model(model)
    valid = ~(pixels == 0).all(axis=0)
    scaling = Scaling(low=(0.0,) * 3, high=(255.0,) * 3, source="")
    height = max(tile.window.row_stop for tile in grid)
    width = max(tile.window.col_stop for tile in grid)
    total, weights = np.zeros((2, height, width)), np.zeros((height, width))
    padded = np.zeros((3, height, width), np.uint8)
    known = np.zeros((height, width), bool)
    padded[:, : SHAPE[0], : SHAPE[1]], known[: SHAPE[0], : SHAPE[1]] = pixels, valid
    side = grid.tile_size_px
    hann = np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2
    for tile in grid:
        inside = tile.window.slices_in(Window(row=0, col=0, height=height, width=width))
        with torch.inference_mode():
            batch = normalize(
                torch.from_numpy(padded[:, *inside])[None],
                torch.from_numpy(known[inside])[None],
                scaling,
                loaded.spec,
            )
            probability = loaded.module(batch)[0].sigmoid().double().numpy()
        weight = hann[:, None] * hann
        total[:, *inside] += probability * weight
        weights[inside] += weight
    return (total / weights)[:, : SHAPE[0], : SHAPE[1]], valid


class TestBlendMode:
    def test_equals_a_stitcher_that_holds_everything(self, tmp_path, model, scene, pixels):
        tiling = TilingOptions(tile_size_px=128, overlap_px=64, blend="hann")
        options = options_for(model, tiling=tiling)
        run(scene, tmp_path / "out", options=options)
        grid = prepare(str(scene), options).plan.grid
        probability, valid = blended_by_brute_force(model, pixels, grid)
        found = read(tmp_path / "out" / "scene_probability.tif") / 255
        assert np.abs(found - probability)[:, valid].max() <= 0.5 / 255 + 1e-4
        mask = read(tmp_path / "out" / "scene_mask.tif")[0]
        assert (mask != mask_of(probability, valid)).mean() < 1e-4
        assert np.array_equal(mask == NODATA, ~valid)


class TestDevices:
    def test_two_workers_give_the_bits_of_one(self, tmp_path, model, scene):
        for name, device in (("one", "cpu"), ("two", "cpu,cpu")):
            options = options_for(model, device=device)
            run(scene, tmp_path / name, options=options)
        assert outputs_of(tmp_path / "one") == outputs_of(tmp_path / "two")


class TestAreaOfInterest:
    def test_gives_what_the_whole_run_gives_there(self, tmp_path, model, scene):
        run(scene, tmp_path / "whole", options=options_for(model))
        box = (500_100.0, 4_999_750.0, 500_300.0, 4_999_900.0)
        report = run(scene, tmp_path / "part", options=options_for(model, box=box))
        whole = read(tmp_path / "whole" / "scene_mask.tif")[0]
        with rasterio.open(tmp_path / "part" / "scene_mask.tif") as part:
            assert part.bounds == pytest.approx(box)
            assert np.array_equal(part.read(1), whole[200:500, 200:600])
        assert report.n_tiles_outside > 0

    def test_says_where_it_was_taken_for_pixels(self, tmp_path, model):
        path = make_geotiff(tmp_path / "a.tif", smooth_noise(90, 80), crs=None)
        for name, more in (("whole", {}), ("part", {"box": (10, 20, 40, 60)})):
            notes = run(path, tmp_path / name, options=options_for(model, **more)).notes
            told = "the area of interest is in pixels, as the scene has no CRS" in notes
            assert told == (name == "part")


class TestReport:
    def test_counts_everything(self, tmp_path, model, scene, pixels):
        # other engines upload nothing, and which one is fastest depends on the moment
        report = run(scene, tmp_path / "out", options=options_for(model, engine="torch"))
        n_nodata = int((pixels == 0).all(axis=0).sum())
        assert report.n_pixels_nodata == n_nodata
        assert report.n_pixels_valid == SHAPE[0] * SHAPE[1] - n_nodata
        raw = json.loads((tmp_path / "out" / "run.json").read_text())
        assert raw["report"]["n_tiles"] == report.n_tiles > 50
        assert raw["report"]["n_tiles_nodata"] == report.n_tiles_nodata > 0
        assert raw["plan"]["model"]["sha256"] == load_model(model).sha256
        assert raw["scaling"]["high"] == [255.0, 255.0, 255.0]
        stages = dict(report.seconds)
        assert {"read", "idle", "upload", "forward", "stitch", "write", "export"} <= stages.keys()
        assert all(spent >= 0 for spent in stages.values())

    def test_names_files_that_exist(self, tmp_path, model, scene):
        options = options_for(model, outputs=OutputOptions())
        report = run(scene, tmp_path / "out", options=options)
        names = {Path(path).name for _, path in report.outputs}
        assert {"scene_mask.tif", "scene_building.geojson", "preview.png", "run.json"} <= names
        assert all(Path(path).exists() for _, path in report.outputs)
        assert not (tmp_path / "out" / WORK).exists()

    def test_a_scene_without_data_gives_empty_outputs(self, tmp_path, model):
        path = make_geotiff(tmp_path / "empty.tif", np.zeros((3, 90, 80), np.uint8), nodata=0)
        options = options_for(model, outputs=OutputOptions())
        report = run(path, tmp_path / "out", options=options)
        assert (read(tmp_path / "out" / "empty_mask.tif") == NODATA).all()
        assert set(dict(report.n_features).values()) == {0}
        assert report.n_tiles == 0


class TestNodata:
    @pytest.mark.parametrize("regularize", ["off", "auto", "strict"])
    def test_never_appears_in_a_polygon(self, tmp_path, model, scene, regularize):
        outputs = OutputOptions(vectors=VectorOptions(regularize=regularize))
        box = (500_020.0, 4_999_800.0, 500_200.0, 4_999_970.0)
        run(scene, tmp_path, options=options_for(model, outputs=outputs, box=box))
        with rasterio.open(tmp_path / "scene_mask.tif") as dataset:
            empty = dataset.read(1) == NODATA
            transform, crs = dataset.transform, dataset.crs
        rows, cols = np.nonzero(empty)
        cells = shapely.box(cols, rows, cols + 1, rows + 1)
        a, b, c, d, e, f = transform[:6]
        nodata = affine_transform(shapely.union_all(cells), (a, b, d, e, c, f))
        frame = affine_transform(shapely.box(0, 0, *empty.shape[::-1]), (a, b, d, e, c, f))
        for name in ("building", "road"):
            found = geopandas.read_file(tmp_path / f"scene_{name}.geojson").to_crs(crs)
            assert len(found) > 0
            # seven decimals of a degree are a centimetre
            assert found.intersection(nodata.buffer(-0.03)).area.max() < 1e-6
            assert found.difference(frame.buffer(0.03)).area.max() < 1e-6


class TestPixelCoordinates:
    @staticmethod
    def bounds(folder):
        names = ("s_building.geojson", "s_road.geojson")
        return pd.concat(geopandas.read_file(folder / name) for name in names).total_bounds

    def test_are_of_the_file_in_all_results_whatever_a_world_file_says(
        self, tmp_path, model, pixels
    ):
        found = []
        for name, transform in (("plain", None), ("world", Affine(0.1, 0, 5e5, 0, -0.1, 5e6))):
            part = np.ascontiguousarray(pixels[:, 300:600, 300:700])
            scene = make_geotiff(tmp_path / "s.tif", part, crs=None, transform=transform)
            out, asked = tmp_path / name, {"pixel_m": 0.25, "box": (100, 50, 300, 250)}
            outputs = OutputOptions(formats=("cog", "zarr", "geojson"))
            everywhere = ((None, 0.02),)
            run(
                scene,
                out,
                options=options_for(model, outputs=outputs, thresholds=everywhere, **asked),
            )
            found.append(self.bounds(out))
            for result in ("s_mask.tif", "s_mask.zarr"):
                (note,) = vectorize(out / result, out / "again").notes
                assert "pixels of the scene" in note
                assert ("is not used" in note) == (name == "world")
                found.append(self.bounds(out / "again"))
                shutil.rmtree(out / "again")
        assert np.array(found) == pytest.approx(np.array([[100, 50, 300, 250]] * 6), abs=3)


class TestFilesOfTheUser:
    def test_a_folder_that_happens_to_be_called_work_is_left_alone(self, tmp_path, model, scene):
        (tmp_path / "work").mkdir()
        (tmp_path / "work" / "thesis.txt").write_text("mine")
        run(scene, tmp_path, options=options_for(model))
        run(scene, tmp_path, options=options_for(model, overwrite=True))
        assert (tmp_path / "work" / "thesis.txt").read_text() == "mine"

    @pytest.mark.parametrize("name", ["preview.png", "scene_mask.tif", "run.json"])
    def test_an_output_that_is_there_is_refused(self, tmp_path, model, scene, name):
        (tmp_path / name).write_text("mine")
        with pytest.raises(OutputError, match=f"{name} "):
            run(scene, tmp_path, options=options_for(model))
        assert {path.name for path in tmp_path.iterdir()} == {name}
        assert (tmp_path / name).read_text() == "mine"

    def test_all_that_a_run_writes_is_foreseen(self, tmp_path, model, scene):
        outputs = OutputOptions(formats=("cog", "zarr", "gpkg", "fgb"), probability=True)
        run(scene, tmp_path, options=options_for(model, outputs=outputs, box=CORNER))
        folder = OutputFolder(path=tmp_path, scene="scene")
        layers = layer_names(SPEC.classes, range(len(SPEC.classes)))
        assert set(folder.files(layers, outputs)) == set(tmp_path.iterdir())

    def test_a_scene_of_a_similar_name_is_not_in_the_way(self, tmp_path, model, monkeypatch):
        monkeypatch.chdir(tmp_path)
        path = make_geotiff(tmp_path / "a.tif", smooth_noise(90, 80))
        (tmp_path / "a_small.tif").write_bytes(path.read_bytes())
        run(path, ".", options=options_for(model))
        assert (tmp_path / "a_mask.tif").exists()

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_the_results_of_another_scene_stay(self, tmp_path, model, overwrite):
        for name in "ab":
            make_geotiff(tmp_path / f"{name}.tif", smooth_noise(90, 80))
        run(tmp_path / "a.tif", tmp_path / "out", options=options_for(model))
        before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
        options = options_for(model, overwrite=overwrite)
        with pytest.raises(
            OutputError, match=r"results of another scene, .*a\.tif; give each scene"
        ):
            run(tmp_path / "b.tif", tmp_path / "out", options=options)
        assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before

    @pytest.mark.parametrize("pair", [("a b.tif", "a_b.tif"), ("a.tif", "a.TIFF")])
    def test_the_results_of_another_scene_that_gets_the_same_name_stay(self, tmp_path, model, pair):
        for name in pair:
            make_geotiff(tmp_path / name, smooth_noise(90, 80))
        out = tmp_path / "out"
        run(tmp_path / pair[0], out, options=options_for(model))
        before = {path.name: path.read_bytes() for path in out.iterdir()}
        options = options_for(model, overwrite=True)
        with pytest.raises(OutputError, match=rf"of another scene, .*{pair[0]}; give each scene"):
            run(tmp_path / pair[1], out, options=options)
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before

    def test_the_results_of_a_scene_that_has_moved_are_replaced(self, tmp_path, model):
        path = make_geotiff(tmp_path / "a.tif", smooth_noise(90, 80))
        run(path, tmp_path / "out", options=options_for(model))
        (tmp_path / "new").mkdir()
        moved = path.rename(tmp_path / "new" / "a.tif")
        report = run(moved, tmp_path / "out", options=options_for(model, overwrite=True))
        assert report.scene == str(moved)


class TestOverwriting:
    def test_removes_what_the_new_run_does_not_write(self, tmp_path, model, scene):
        run(scene, tmp_path, options=options_for(model, outputs=OutputOptions()))
        (tmp_path / "scene_notes.txt").write_text("mine")
        run(scene, tmp_path, options=options_for(model, overwrite=True))
        names = {path.name for path in tmp_path.iterdir()}
        assert names == {
            *("scene_mask.tif", "scene_mask.tif.aux.xml", "scene_probability.tif"),
            *("preview.png", "run.json", "scene_notes.txt"),
        }

    def test_an_interrupted_run_leaves_the_old_outputs_alone(
        self, tmp_path, model, scene, monkeypatch
    ):
        import tilingseg.outputs

        run(scene, tmp_path, options=options_for(model))
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

        def interrupt(*_):
            raise KeyboardInterrupt

        options = options_for(model, overwrite=True, thresholds=((None, 0.6),))
        with monkeypatch.context() as patch:
            patch.setattr(tilingseg.outputs, "write_preview", interrupt)
            with pytest.raises(KeyboardInterrupt):
                run(scene, tmp_path, options=options)
        after = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
        assert after == before
        run(scene, tmp_path, options=options)
        assert (tmp_path / "scene_mask.tif").read_bytes() != before["scene_mask.tif"]


class TestInterruption:
    """A run that was stopped goes on, and writes what it may."""

    def stopped(self, *arguments, **named):
        def interrupt(*_):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(*arguments, progress=interrupt, **named)

    def test_a_file_under_a_name_that_it_did_not_have_stays(self, tmp_path, model, scene):
        theirs = tmp_path / "scene_building.gpkg"
        theirs.write_text("digitised by hand")
        begun = options_for(model, outputs=OutputOptions(), box=CORNER)
        self.stopped(scene, tmp_path, options=begun)
        more = replace(begun, outputs=OutputOptions(formats=("cog", "gpkg")))
        with pytest.raises(OutputError, match=r"scene_building\.gpkg exists.*--overwrite"):
            run(scene, tmp_path, options=more)
        assert theirs.read_text() == "digitised by hand"
        with pytest.raises(OutputError, match=r"scene_building\.gpkg exists"):
            run(scene, tmp_path, options=replace(more, resume=False))
        run(scene, tmp_path, options=begun)
        assert theirs.read_text() == "digitised by hand"

    def test_what_was_given_up_once_is_not_asked_for_again(self, tmp_path, model, scene):
        begun = options_for(model, outputs=OutputOptions(), box=CORNER)
        run(scene, tmp_path, options=begun)
        other = replace(begun, thresholds=((None, 0.6),))
        self.stopped(scene, tmp_path, options=replace(other, overwrite=True))
        (tmp_path / "scene_road.fgb").write_text("older")
        more = replace(other, outputs=OutputOptions(formats=("cog", "fgb")))
        self.stopped(scene, tmp_path, options=replace(more, overwrite=True))
        run(scene, tmp_path, options=more)
        assert (tmp_path / "scene_road.fgb").read_bytes()[:3] == b"fgb"
        assert not (tmp_path / "scene_road.geojson").exists()

    def test_goes_on_with_the_missing_regions(self, tmp_path, model, scene, monkeypatch):
        import tilingseg.tiling

        monkeypatch.setattr(tilingseg.tiling, "REGION_PX", 256)
        monkeypatch.setattr(tilingseg.tiling, "CHUNK_PX", 64)
        run(scene, tmp_path / "whole", options=options_for(model))

        def interrupt(stage, n_done, total):
            if stage == "tiles" and n_done > total // 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(scene, tmp_path / "out", options=options_for(model), progress=interrupt)
        assert not list((tmp_path / "out").glob("scene_*"))
        report = run(scene, tmp_path / "out", options=options_for(model))
        assert report.n_regions_resumed >= 3
        assert outputs_of(tmp_path / "out") == outputs_of(tmp_path / "whole")

    def test_goes_on_at_a_url_that_was_signed_again_and_keeps_no_signature(
        self, tmp_path, model, scene, monkeypatch
    ):
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("CPL_VSIL_CURL_NON_CACHED", "/vsicurl/http://127.0.0.1")
        monkeypatch.setattr("tilingseg.tiling.REGION_PX", 256)
        monkeypatch.setattr("tilingseg.tiling.CHUNK_PX", 64)
        out = tmp_path / "out"
        signatures = ("tonight", "tomorrow")

        def interrupt(stage, n_done, total):
            if stage == "tiles" and n_done > total // 2:
                raise KeyboardInterrupt

        def leaked():
            kept = [path for path in out.rglob("*") if path.is_file()]
            return [
                path
                for path in kept
                if any(
                    mark in path.name or mark.encode() in path.read_bytes() for mark in signatures
                )
            ]

        with file_server() as server:
            urls = []
            for signature in signatures:
                name = f"/scene.tif?version=2&X-Amz-Signature={signature}"
                server.files[name] = scene.read_bytes()
                urls.append(server.url + name)
            with pytest.raises(KeyboardInterrupt):
                run(urls[0], out, options=options_for(model), progress=interrupt)
            assert (out / WORK / "plan.json").exists()
            assert leaked() == []
            report = run(urls[1], out, options=options_for(model))
            server.files.clear()
            with pytest.raises(SceneError) as error:
                run(urls[1], tmp_path / "none", options=options_for(model))
        assert report.n_regions_resumed >= 3
        assert report.scene == f"{server.url}/scene.tif?version=2"
        assert leaked() == []
        assert "tomorrow" not in str(error.value)

    def test_another_plan_is_refused_until_told_to_start_anew(self, tmp_path, model, scene):
        def interrupt(stage, n_done, total):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(scene, tmp_path / "out", options=options_for(model), progress=interrupt)
        other = options_for(model, thresholds=((None, 0.7),))
        with pytest.raises(PlanError, match=r"thresholds.*0\.5.*0\.7"):
            run(scene, tmp_path / "out", options=other)
        run(scene, tmp_path / "out", options=replace(other, resume=False))
        assert (tmp_path / "out" / "scene_mask.tif").exists()

    def test_a_changed_scene_is_another_plan(self, tmp_path, model):
        path = make_geotiff(tmp_path / "scene.tif", smooth_noise(90, 80))

        def interrupt(stage, n_done, total):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(path, tmp_path / "out", options=options_for(model), progress=interrupt)
        make_geotiff(path, smooth_noise(90, 80, seed=1))
        with pytest.raises(PlanError, match=r"scene\.revision"):
            run(path, tmp_path / "out", options=options_for(model))

    def test_a_damaged_scene_ends_the_run_with_the_tile_named(self, tmp_path, model, pixels):
        path = make_geotiff(tmp_path / "scene.tif", pixels)
        with path.open("r+b") as file:
            file.seek(path.stat().st_size // 2)
            file.write(b"\xff" * 30_000)  # random bytes are not always noticed
        start = time.monotonic()
        with pytest.raises(TileError, match=r"tile \d+ at row \d+ px"):
            run(path, tmp_path / "out", options=options_for(model))
        assert time.monotonic() - start < 60
        assert not list((tmp_path / "out").glob("scene_*"))

    @pytest.mark.slow
    def test_killed_at_random_moments_ends_in_the_same_bytes(self, tmp_path, model, scene):
        def command(out):
            return [
                *(sys.executable, "-m", "tilingseg", "run", str(scene), "-o", str(out), "-q"),
                *("--model", str(model), "--tile-size", "128", "--probability", "--device", "cpu"),
                *("--region-size", "256"),  # six regions
            ]

        start = time.monotonic()
        subprocess.run(command(tmp_path / "whole"), check=True)
        seconds = time.monotonic() - start
        dice = random.Random(0)
        n_killed = n_finished = 0
        while n_killed < 10 or n_finished < 1:
            out = tmp_path / f"out{n_finished}"
            process = subprocess.Popen(command(out))
            try:
                # the tenth kill is followed by a run to the end
                process.wait(dice.uniform(0.1, 1.0) * seconds if n_killed < 10 else None)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                n_killed += 1
                if not (out / "run.json").exists() or (out / WORK).exists():
                    continue
                # all outputs are there, and it was killed as it left the folder
                (out / LOCK).unlink(missing_ok=True)
            else:
                assert process.returncode == 0
            assert outputs_of(out) == outputs_of(tmp_path / "whole")
            n_finished += 1


def test_classes_that_are_not_asked_for_are_not_written(tmp_path, model, scene):
    options = options_for(model, classes=("road",), outputs=OutputOptions())
    run(scene, tmp_path / "out", options=options)
    assert set(np.unique(read(tmp_path / "out" / "scene_mask.tif"))) <= {0, 2, NODATA}
    assert not (tmp_path / "out" / "scene_building.geojson").exists()


def test_softmax_models_run(tmp_path, scene):
    spec = replace(SPEC, activation="softmax")
    path = make_model(tmp_path / "softmax.safetensors", spec)
    run(scene, tmp_path / "out", options=options_for(path))
    assert (tmp_path / "out" / "scene_mask.tif").exists()


def test_a_store_of_masks_alone_is_not_taken_for_vectors(scene, model, tmp_path):
    masks = RunOptions(model=model, outputs=OutputOptions(formats=("cog",)))
    job = prepare(str(scene), masks)
    folder = OutputFolder.of(job.plan.scene.name, tmp_path)
    assert not open_store(job, folder, masks).keeps_probability
    vectors = replace(masks, outputs=OutputOptions(formats=("geojson",)))
    with pytest.raises(PlanError, match="without the probabilities.*--no-resume"):
        open_store(job, folder, vectors)
    assert open_store(job, folder, replace(vectors, resume=False)).keeps_probability


def test_orientations_and_several_models_are_averaged_without_seams(scene, model, folder, tmp_path):
    other = make_model(folder / "other.safetensors", seed=1)
    box = (500_050.0, 4_999_800.0, 500_200.0, 4_999_950.0)
    both = options_for(model, further_models=(other,), tta=True, box=box)
    tilings = SMALL_TILES, TilingOptions(tile_size_px=256)
    masks = []
    for number, tiling in enumerate(tilings):
        report = run(scene, tmp_path / str(number), options=replace(both, tiling=tiling))
        with rasterio.open(dict(report.outputs)["mask"]) as dataset:
            masks.append(dataset.read(1))
            assert "+" in dataset.tags()["TILINGSEG_MODEL_SHA256"]
    assert np.array_equal(*masks)
    alone = run(scene, tmp_path / "alone", options=options_for(model, box=box))
    with rasterio.open(dict(alone.outputs)["mask"]) as dataset:
        assert not np.array_equal(dataset.read(1), masks[0])


def test_models_of_different_classes_are_not_averaged(scene, model, folder):
    spec = replace(SPEC, classes=("road", "building"))
    other = make_model(folder / "swapped.safetensors", spec)
    with pytest.raises(ModelError, match="classes differ"):
        prepare(str(scene), options_for(model, further_models=(other,)))


def test_memory_that_runs_out_at_random_changes_no_mask(scene, model, tmp_path, monkeypatch):
    options = options_for(model, engine="torch")
    masks, dice, n_refused = [], np.random.default_rng(3), [0]
    infer = TorchEngine.probabilities

    def moody(engine, *batch):
        if dice.random() < 0.1:
            n_refused[0] += 1
            raise torch.OutOfMemoryError("pretended")
        return infer(engine, *batch)

    for name in ("calm", "moody"):
        if name == "moody":
            monkeypatch.setattr(TorchEngine, "probabilities", moody)
        report = run(scene, tmp_path / name, options=options)
        with rasterio.open(dict(report.outputs)["mask"]) as dataset:
            masks.append(dataset.read(1))
    assert n_refused[0] > 2
    assert np.array_equal(*masks)


@pytest.mark.parametrize(
    ("device", "side_px", "n_tiles", "n_next"),
    [("cpu", 512, 23, 1), ("cpu", 4096, 1, 1), ("cuda", 512, 36, 36), ("cuda", 8192, 8, 8)],
)
def test_what_is_read_ahead_fits_the_memory(device, side_px, n_tiles, n_next):
    scene = SimpleNamespace(bands=("red", "green", "blue"), dtype="uint8")
    tiling = SimpleNamespace(batch_size=32, grid=SimpleNamespace(tile_shape=(side_px, side_px)))
    plan = SimpleNamespace(tiling=tiling, model=SimpleNamespace(device_type=device))
    job = SimpleNamespace(workers=4, plan=plan, reader=SimpleNamespace(scene=scene))
    assert tilingseg.flow._read_ahead(job) == ReadAhead(n_tiles=n_tiles, n_next=n_next)


def test_tiles_that_nobody_will_infer_are_not_waited_for(scene, model, tmp_path, monkeypatch):
    read, n_read = RasterReader.read, [0]

    def slowly(reader, window):
        n_read[0] += 1
        time.sleep(0.1)
        return read(reader, window)

    def fail(*_args):
        raise RuntimeError("no kernel")

    monkeypatch.setattr(RasterReader, "read", slowly)
    monkeypatch.setattr(TorchEngine, "probabilities", fail)
    ahead = ReadAhead(n_tiles=4, n_next=60)  # as for a GPU
    monkeypatch.setattr(tilingseg.flow, "_read_ahead", lambda _job: ahead)
    tiling = replace(SMALL_TILES, region_px=128)
    with pytest.raises(TileError, match="no kernel"):
        run(scene, tmp_path / "out", options=options_for(model, engine="torch", tiling=tiling))
    assert n_read[0] < 20


def test_memory_that_runs_out_after_the_network_names_the_tile(scene, model, tmp_path, monkeypatch):
    def fail(*_args):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(Decision, "finish", fail)
    said = r"tile \d+ at row \d+ px, column \d+ px: .*--tile-size \(CUDA out of memory.\)$"
    with pytest.raises(TileError, match=said):
        run(scene, tmp_path / "out", options=options_for(model, engine="torch"))


def test_rows_that_cannot_be_stored_are_named(scene, model, tmp_path, monkeypatch):
    def fail(*_args):
        raise RuntimeError("codec broke")

    monkeypatch.setattr(WorkStore, "write", fail)
    with pytest.raises(OutputError, match=r"rows \d+–\d+ px cannot be stored: codec broke"):
        run(scene, tmp_path / "out", options=options_for(model, engine="torch"))
    assert not list((tmp_path / "out" / WORK / "done").iterdir())


@pytest.mark.skipif(not is_installed("onnx"), reason="the extra onnx is not installed")
def test_an_interrupted_run_ends_with_the_engine_that_began_it(tmp_path, model, scene):
    begun = options_for(model, engine="onnx")
    job, folder = prepare_in(str(scene), tmp_path / "out", begun)
    open_store(job, folder, begun)
    left_open = options_for(model, engine="auto")
    again, folder = prepare_in(str(scene), tmp_path / "out", left_open)
    assert again.plan.model.engine == "onnx"
    assert open_store(again, folder, left_open).plan.model.engine == "onnx"
    other = options_for(model, engine="torch")
    job, folder = prepare_in(str(scene), tmp_path / "out", other)
    with pytest.raises(PlanError, match=r"model\.engine: onnx → torch"):
        open_store(job, folder, other)


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_regions_and_devices_give_the_same_bits_in_every_engine(tmp_path, model, scene, engine):
    if not is_installed(engine):
        pytest.skip(f"the extra {engine} is not installed")
    one = options_for(model, engine=engine)
    shared = replace(SMALL_TILES, batch_size=3, region_px=256)
    many = replace(one, device="cpu,cpu", tiling=shared)
    run(scene, tmp_path / "one", options=one)
    run(scene, tmp_path / "many", options=many)
    for name in ("scene_mask.tif", "scene_probability.tif"):
        found = [read(tmp_path / out / name) for out in ("one", "many")]
        np.testing.assert_array_equal(*found)
