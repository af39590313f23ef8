import http.server
import json
import os
import re
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import torch
import zarr

from tests.full_disk import full_disk
from tests.makers import make_geotiff, make_model, smooth_noise
from tilingseg.infer import TorchEngine, choice
from tilingseg.model.load import load_model
from tilingseg.output_folder import WORK
from tilingseg.places import absolute


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def model(folder):
    return make_model(folder / "tiny.safetensors")


@pytest.fixture(scope="module")
def scene(folder):
    return make_geotiff(folder / "scene.tif", smooth_noise(150, 170))


class TestHelp:
    @pytest.mark.parametrize(
        "command", [[], ["run"], ["plan"], ["info"], ["vectorize"], ["evaluate-vectors"]]
    )
    def test_is_there_for_every_command(self, call, command):
        code, out, _ = call(*command, "--help")
        assert code == 0
        assert "Usage: " in out

    def test_says_what_another_engine_than_torch_must_give(self, call):
        _, out, _ = call("run", "--help")
        assert f"needs less than {choice._WORTH_IT:g} of its time" in " ".join(out.split())

    def test_does_not_wait_for_the_heavy_packages(self):
        script = (
            "import sys; sys.argv = ['tilingseg', '--help']\n"
            "from tilingseg.cli import main\n"
            "main()\n"
            "heavy = {'torch', 'rasterio', 'zarr', 'geopandas', 'numpy'} & set(sys.modules)\n"
            "sys.exit(f'imported {heavy}' if heavy else 0)"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def test_wrong_usage_exits_with_2(self, call):
        code, _, err = call("run", "a.tif", "--blend", "magic")
        assert code == 2
        assert "magic" in err


class TestRun:
    def test_prints_paths_to_stdout_and_the_rest_to_stderr(self, call, tmp_path, model, scene):
        code, out, err = call("run", scene, "-o", tmp_path / "out", "--model", model)
        assert code == 0
        paths = out.split()
        assert tmp_path.joinpath("out", "scene_mask.tif") in map(Path, paths)
        assert all(Path(path).exists() for path in paths)
        assert "tiles" in err
        assert "features" in err

    def test_quiet_prints_nothing(self, call, tmp_path, model, scene):
        result = call("run", scene, "-o", tmp_path / "out", "--model", model, "-q")
        assert result == (0, "", "")

    def test_vectors_of_its_zarr_are_those_of_the_run(self, call, tmp_path, model, scene):
        code, *_ = call(
            *("run", scene, "-o", tmp_path / "out", "--model", model, "-q"),
            *("--formats", "zarr,geojson", "--probability"),
        )
        assert code == 0
        mask = tmp_path / "out" / "scene_mask.zarr"
        code, _, err = call("vectorize", mask, "-o", tmp_path / "again", "--formats", "geojson")
        assert (code, "Traceback" in err) == (0, False)
        for name in ("scene_building.geojson", "scene_road.geojson"):
            ran, read = (
                geopandas.read_file(tmp_path / folder / name) for folder in ("out", "again")
            )
            assert len(ran) > 0
            assert shapely.equals(ran.geometry.array, read.geometry.array).all()
        code, _, err = call("vectorize", mask, "-o", tmp_path / "cut", "--threshold", "0.7")
        assert code != 0
        assert "holds the mask as it was cut" in err

    def test_an_area_file_cuts_the_result(self, call, tmp_path, model, scene):
        # a triangle around the middle of the scene, in another CRS
        corners = [(500_010, 4_999_940), (500_060, 4_999_940), (500_060, 4_999_990)]
        series = geopandas.GeoSeries([shapely.Polygon(corners)], crs="EPSG:32633")
        series.to_crs(4326).to_file(tmp_path / "area.geojson")
        code, *_ = call(
            *("run", scene, "-o", tmp_path / "out", "--model", model, "-q"),
            *("--aoi", tmp_path / "area.geojson", "--formats", "cog"),
        )
        assert code == 0
        with rasterio.open(tmp_path / "out" / "scene_mask.tif") as dataset:
            mask = dataset.read(1)
        inside = (mask != 255).mean()
        assert abs(mask.shape[0] - 100) <= 1
        assert inside == pytest.approx(0.5, abs=0.02)
        (tmp_path / "area.csv").write_text("name,x\na,1\n")
        code, _, err = call("plan", scene, "--model", model, "--aoi", tmp_path / "area.csv")
        assert code != 0
        assert "holds no geometry" in err
        assert "Traceback" not in err

    def test_flags_reach_the_plan(self, call, tmp_path, model, scene):
        code, *_ = call(
            *("run", scene, "-o", tmp_path / "out", "--model", model, "-q"),
            *("--tile-size", 96, "--overlap", 32, "--blend", "hann", "--batch-size", 3),
            *("--threshold", "road=0.6", "--threshold", "building=0.4", "--classes", "road"),
            *("--bands", "3,2,1", "--precision", "bf16", "--device", "cpu", "--probability"),
            *("--formats", "cog,zarr,gpkg", "--bbox", "500010,4999940,500060,4999990"),
        )
        assert code == 0
        plan = json.loads((tmp_path / "out" / "run.json").read_text())["plan"]
        assert plan["tiling"]["grid"]["tile_size_px"] == 96
        assert plan["tiling"]["grid"]["overlap_px"] == 32
        assert plan["tiling"]["stitching"] == "hann"
        assert plan["tiling"]["batch_size"] == 3
        assert plan["tiling"]["reasons"]["tile"].startswith("asked for: ")
        assert plan["model"]["engine_reason"]
        assert plan["model"]["thresholds"] == [0.4, 0.6]
        assert plan["model"]["class_indexes"] == [1]
        assert plan["model"]["precision"] == "bf16"
        assert [band["index"] for band in plan["scene"]["bands"]] == [3, 2, 1]
        assert plan["extent"] == {"row": 20, "col": 20, "height": 100, "width": 100}
        names = {path.name for path in (tmp_path / "out").iterdir()}
        assert {"scene_mask.tif", "scene_probability.tif", "scene_mask.zarr"} <= names
        assert "scene_road.gpkg" in names
        assert "scene_road.geojson" not in names

    @pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
    def test_runs_torchscript_when_told_to(self, call, tmp_path, model, scene):
        loaded = load_model(model)
        script = torch.jit.trace(loaded.module, torch.zeros(1, 3, 64, 64))
        path = tmp_path / "tiny.pt"
        torch.jit.save(script, path, _extra_files={"tilingseg": loaded.spec.to_json()})
        arguments = ("run", scene, "-o", tmp_path / "out", "--model", path, "-q")
        code, _, err = call(*arguments)
        assert code == 1
        assert "--torchscript" in err
        assert call(*arguments, "--torchscript") == (0, "", "")
        plan = json.loads((tmp_path / "out" / "run.json").read_text())["plan"]
        assert plan["tiling"]["stitching"] == "exact"
        assert "measured" in plan["tiling"]["reason"]

    @pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
    def test_a_network_without_a_reach_that_does_not_fit_is_told_what_to_do(
        self, call, tmp_path, model, scene, monkeypatch
    ):
        class Centred(torch.nn.Module):
            def forward(self, pixels):
                return (pixels - pixels.mean((2, 3), keepdim=True))[:, :2]

        script = torch.jit.trace(Centred(), torch.zeros(1, 3, 64, 64))
        path = tmp_path / "whole.pt"
        spec = load_model(model).spec.to_json()
        torch.jit.save(script, path, _extra_files={"tilingseg": spec})

        def refuse(*_):
            raise torch.OutOfMemoryError("pretended")

        monkeypatch.setattr(TorchEngine, "probabilities", refuse)
        arguments = "-o", tmp_path / "out", "--model", path, "--torchscript", "--engine", "torch"
        code, out, err = call("run", scene, *arguments, "-q")
        assert (code, out) == (1, "")
        assert err.count("\n") == 1
        assert re.search(r"tile 0 at .* do not fit .* use a smaller --tile-size", err)
        assert not list((tmp_path / "out").glob("scene*"))

    def test_has_a_default_folder(self, call, tmp_path, model, scene, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert call("run", scene, "--model", model, "-q")[0] == 0
        assert (tmp_path / "scene_tilingseg" / "scene_mask.tif").exists()

    def test_overwrites_when_told_to(self, call, tmp_path, model, scene):
        arguments = ("run", scene, "-o", tmp_path / "out", "--model", model, "-q")
        assert call(*arguments)[0] == 0
        before = (tmp_path / "out" / "scene_mask.tif").read_bytes()
        assert call(*arguments)[0] == 1
        assert call(*arguments, "-f", "--threshold", "0.9")[0] == 0
        assert (tmp_path / "out" / "scene_mask.tif").read_bytes() != before

    def test_selects_along_other_axes(self, call, tmp_path, model):
        import zarr

        stack = np.stack([smooth_noise(90, 80, seed=seed) for seed in range(2)])
        group = zarr.create_group(tmp_path / "stack.zarr")
        array = group.create_array(
            "a",
            shape=stack.shape,
            chunks=(1, 3, 64, 64),
            dtype="uint8",
            dimension_names=("t", "c", "y", "x"),
        )
        array[:] = stack
        found = {}
        for t in (0, 1):
            out = tmp_path / f"out{t}"
            code, _, err = call(
                *("run", tmp_path / "stack.zarr" / "a", "--select", f"t={t}", "-o", out),
                *("--model", model, "-q", "--pixel-size", "0.5"),
            )
            assert code == 0, err
            found[t] = next(out.glob("*_mask.tif")).read_bytes()
        assert found[0] != found[1]
        assert call("run", "a.zarr", "--select", "t=x")[0] == 2


class TestOneScene:
    """What `run` takes for its scene does not depend on where the work is done."""

    @pytest.mark.parametrize("where", [(), ("--cluster", "local")])
    def test_several_scenes_are_for_batch(self, call, tmp_path, monkeypatch, scene, where):
        monkeypatch.chdir(tmp_path)
        for name in "ab":
            (tmp_path / f"{name}.tif").write_bytes(scene.read_bytes())
        (tmp_path / "l.txt").write_text("a.tif\nb.tif\n")
        (tmp_path / "items.json").write_text('{"type": "FeatureCollection", "features": []}')
        for named, told, batch in (
            (("a.tif", "b.tif"), "2 scenes are named", "a.tif b.tif"),
            (("a.tif",) * 9, "9 scenes are named", "SCENES…"),
            (("*.tif",), "*.tif names scenes, and is none", "'*.tif'"),
            (("l.txt",), "l.txt names scenes, and is none", "l.txt"),
            (("items.json",), "items.json names scenes, and is none", "items.json"),
        ):
            code, out, err = call("run", *named, *where)
            assert (code, out) == (1, "")
            assert err == f"error: {told}; do them with: tilingseg batch {batch}\n"
        assert {path.suffix for path in tmp_path.iterdir()} == {".tif", ".txt", ".json"}

    def test_a_grid_of_numbers_as_text_is_a_scene(self, call, tmp_path):
        head = "ncols 40\nnrows 30\nxllcorner 0\nyllcorner 0\ncellsize 1\n"
        rows = "\n".join(" ".join(["7"] * 40) for _ in range(30))
        (tmp_path / "grid.txt").write_text(f"{head}{rows}\n")
        code, _, err = call("plan", tmp_path / "grid.txt")
        assert code == 1
        assert "names scenes" not in err
        assert "band" in err

    @pytest.mark.parametrize(
        ("name", "default"),
        [
            ("a.ome.tif", "a_tilingseg"),
            ("a+b c.tif", "a_b_c_tilingseg"),
            ("GTIFF_DIR:1:a.tif", "a_tilingseg"),
            ("g.zarr/one", "g_one_tilingseg"),
        ],
    )
    def test_the_default_folder_is_the_same_on_a_cluster(
        self, call, tmp_path, monkeypatch, model, scene, name, default
    ):
        monkeypatch.chdir(tmp_path)
        if ".zarr" in name:
            array = zarr.open_group("g.zarr").create_array(
                "one", shape=(3, 80, 90), chunks=(3, 80, 90), dtype="uint8"
            )
            array[:] = smooth_noise(80, 90)
        else:
            (tmp_path / name.rpartition(":")[2]).write_bytes(scene.read_bytes())
        flags = ("--model", model, "--formats", "cog", "--device", "cpu", "-q")
        flags = (*flags, "--pixel-size", 0.5) if ".zarr" in name else flags
        assert call("run", name, *flags) == (0, "", "")
        report = json.loads((tmp_path / default / "run.json").read_text())
        # the outputs are seen before a worker is asked for
        code, _, err = call("run", name, *flags, "--cluster", "local")
        assert code == 1
        assert f"{default}/run.json exists" in err
        assert call("run", f"./{name}" if ":" not in name else name, *flags, "-f")[0] == 0
        again = json.loads((tmp_path / default / "run.json").read_text())
        assert again["plan"]["scene"]["uri"] == report["plan"]["scene"]["uri"] == absolute(name)


class TestPlan:
    def test_prints_tiles_regions_memory_and_time(self, call, model, scene):
        code, out, _ = call("plan", scene, "--model", model)
        assert code == 0
        for word in ("tiles", "regions", "memory", "time", "stitching", "exact", "no overlap"):
            assert word in out

    def test_names_the_overlap_of_several_tiles(self, call, model, scene):
        code, out, _ = call("plan", scene, "--model", model, "--tile-size", 96)
        assert code == 0
        assert re.search(r"tiles +\d+ of 96 × 96 px, overlap \d+ px; asked for: \d", out)

    def test_says_why_sizes_are_what_they_are(self, call, model, scene):
        code, out, _ = call("plan", scene, "--model", model, "--device", "cpu")
        assert code == 0
        assert re.search(
            r"tiles .*; the whole scene in one: \d\.\d\d × the scene's work, \d+ MB", out
        )
        assert re.search(r"batches +1 tile: a processor gains nothing by more", out)
        assert re.search(r"regions +1 of [\d,]+ px: about 16 a scene", out)


class TestVectorize:
    def test_gives_the_layers_of_the_run(self, call, tmp_path, model, scene):
        out = tmp_path / "out"
        assert call("run", scene, "-o", out, "--model", model, "-q")[0] == 0
        code, stdout, err = call("vectorize", out / "scene_mask.tif", "-o", tmp_path / "again")
        assert code == 0
        assert "features" in err
        names = {Path(path).name for path in stdout.split()}
        assert {"scene_building.geojson", "scene_road.geojson"} <= names
        quiet = call("vectorize", out / "scene_mask.tif", "-o", tmp_path / "again", "-f", "-q")
        assert quiet == (0, "", "")

    def test_refuses_what_exists_and_unknown_classes(self, call, tmp_path, model, scene):
        out = tmp_path / "out"
        assert call("run", scene, "-o", out, "--model", model, "-q")[0] == 0
        code, _, err = call("vectorize", out / "scene_mask.tif", "-o", out)
        assert code == 1
        assert "scene_building.geojson exists" in err
        for name in ("scene_road_centerline.geojson", "scene_building.qml"):
            (tmp_path / "own").mkdir(exist_ok=True)
            mine = tmp_path / "own" / name
            mine.write_text("mine")
            code, _, err = call("vectorize", out / "scene_mask.tif", "-o", tmp_path / "own")
            assert (code, mine.read_text()) == (1, "mine")
            assert f"{name} exists" in err
            mine.unlink()
        code, _, err = call("vectorize", out / "scene_mask.tif", "--classes", "tree")
        assert code == 1
        assert "no class 'tree'; it has building, road" in err

    def test_refuses_no_class_and_no_format(self, call, tmp_path, scene):
        for flag in ("--classes", "--formats"):
            code, _, err = call("vectorize", scene, "-o", tmp_path / "out", flag, "")
            assert code == 1
            assert err.startswith("error: no ")
        assert not (tmp_path / "out").exists()

    def test_refuses_a_photo(self, call, scene, tmp_path):
        code, _, err = call("vectorize", scene, "-o", tmp_path)
        assert code == 1
        assert err.startswith("error: ")
        assert err.count("\n") == 1


class TestInfo:
    def test_describes_a_scene(self, call, scene):
        code, out, _ = call("info", scene)
        assert code == 0
        assert "170 × 150 px" in out
        assert "EPSG:32633" in out
        assert "0.5 m" in out

    def test_describes_a_model(self, call, model):
        code, out, _ = call("info", model)
        assert code == 0
        assert "building ≥ 0.5, road ≥ 0.5" in out
        assert "halo" in out


class TestBadInput:
    """Each gives one clear line, exit code 1, and no file under a final name."""

    def refuse(self, call, out, *arguments, words):
        code, stdout, err = call("run", *arguments, "-o", out, "-q")
        assert code == 1, err
        assert stdout == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1, f"more than one line: {err}"
        for word in words:
            assert word in err
        standing = out.rglob("*") if out.is_dir() else ()
        finals = [p for p in standing if p.is_file() and WORK not in p.relative_to(out).parts]
        assert finals == []

    def test_missing_file(self, call, tmp_path, model):
        self.refuse(
            call, tmp_path / "o", tmp_path / "none.tif", "--model", model, words=["none.tif"]
        )

    @pytest.mark.parametrize("content", [b"", b"no raster", b"PK\x03\x04" + bytes(100)])
    def test_not_a_raster(self, call, tmp_path, model, content):
        path = tmp_path / "a.tif"
        path.write_bytes(content)
        self.refuse(call, tmp_path / "o", path, "--model", model, words=["a.tif"])

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
    def test_truncated_tiff(self, call, tmp_path, model, scene, share):
        content = scene.read_bytes()
        path = tmp_path / "cut.tif"
        path.write_bytes(content[: int(len(content) * share)])
        self.refuse(call, tmp_path / "o", path, "--model", model, words=["cut.tif"])

    def test_zero_size(self, call, tmp_path, model):
        import zarr

        zarr.create_array(tmp_path / "a.zarr", shape=(3, 0, 50), dtype="uint8", chunks=(3, 1, 50))
        self.refuse(call, tmp_path / "o", tmp_path / "a.zarr", "--model", model, words=["a.zarr"])

    def test_wrong_band_count(self, call, tmp_path, model):
        path = make_geotiff(tmp_path / "grey.tif", smooth_noise(90, 90, 1))
        self.refuse(call, tmp_path / "o", path, "--model", model, words=["band", "--bands 1,1,1"])

    def test_band_that_does_not_exist(self, call, tmp_path, model, scene):
        self.refuse(call, tmp_path / "o", scene, "--model", model, "--bands", "1,2,9", words=["9"])

    def test_model_that_does_not_exist(self, call, tmp_path, scene):
        self.refuse(call, tmp_path / "o", scene, "--model", "other", words=["'other'"])

    @pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
    def test_model_file_that_is_no_model(self, call, tmp_path, scene, name):
        path = tmp_path / name
        path.write_bytes(b"weights?")
        self.refuse(call, tmp_path / "o", scene, "--model", path, words=[name])

    def test_model_of_another_hash(self, call, tmp_path, model, scene):
        self.refuse(
            *(call, tmp_path / "o", scene, "--model", model, "--model-sha256", "00ff"),
            words=["hash", "00ff"],
        )

    def test_crs_that_cannot_be_transformed(self, call, tmp_path, model):
        local = 'LOCAL_CS["site grid",UNIT["metre",1],AXIS["x",EAST],AXIS["y",NORTH]]'
        path = make_geotiff(tmp_path / "site.tif", smooth_noise(90, 90), crs=local)
        self.refuse(call, tmp_path / "o", path, "--model", model, words=["site.tif", "CRS"])

    def test_output_folder_that_cannot_be_written(self, call, tmp_path, model, scene):
        (tmp_path / "file").write_text("in the way")
        self.refuse(
            call, tmp_path / "file" / "out", scene, "--model", model, words=["cannot be written"]
        )

    def test_output_exists(self, call, tmp_path, model, scene):
        arguments = ("run", scene, "--model", model, "-q", "-o", tmp_path / "out")
        assert call(*arguments)[0] == 0
        before = {p: p.read_bytes() for p in (tmp_path / "out").iterdir()}
        code, _, err = call(*arguments)
        assert code == 1
        assert "exists; replace it with --overwrite" in err
        assert {p: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before

    @pytest.mark.parametrize("size_kb", [40, 300, 900, 1600])
    def test_disk_full(self, call, tmp_path, model, size_kb):
        path = make_geotiff(tmp_path / "large.tif", smooth_noise(900, 900))
        with full_disk(tmp_path / "disk", size_kb) as disk:
            out = disk / "out"
            self.refuse(call, out, path, "--model", model, "--probability", words=[str(out)])

    def test_area_outside_the_scene(self, call, tmp_path, model, scene):
        self.refuse(
            *(call, tmp_path / "o", scene, "--model", model, "--bbox", "0,0,5,5"),
            words=["does not overlap the scene"],
        )

    def test_threshold_out_of_range(self, call, tmp_path, model, scene):
        self.refuse(
            *(call, tmp_path / "o", scene, "--model", model, "--threshold", "1.5"),
            words=["1.5", "between 0 and 1"],
        )

    def test_unknown_class(self, call, tmp_path, model, scene):
        self.refuse(
            *(call, tmp_path / "o", scene, "--model", model, "--classes", "tree"),
            words=["'tree'", "building, road"],
        )

    def test_unknown_format(self, call, tmp_path, model, scene):
        self.refuse(
            *(call, tmp_path / "o", scene, "--model", model, "--formats", "shp"),
            words=["'shp'", "geojson"],
        )

    @pytest.mark.parametrize("text", ["", ",", " "])
    def test_no_format_and_no_class(self, call, tmp_path, model, scene, text):
        for flag, words in (("--formats", "no output format"), ("--classes", "no class")):
            self.refuse(call, tmp_path / "o", scene, "--model", model, flag, text, words=[words])

    def test_probabilities_without_a_raster(self, call, tmp_path, model, scene):
        self.refuse(
            *(call, tmp_path / "o", scene, "--model", model, "--probability"),
            *("--formats", "geojson,gpkg"),
            words=["probabilities", "cog, zarr"],
        )

    @pytest.mark.parametrize("gsd", ["0", "-1", "inf", "nan"])
    def test_pixel_size_that_is_none(self, call, tmp_path, model, scene, gsd):
        self.refuse(
            *(call, tmp_path / "o", scene, "--model", model, "--gsd", gsd),
            words=[f"pixels of {gsd} m", "above 0"],
        )

    def test_pixel_size_that_does_not_fit_the_scene(self, call, tmp_path, model, scene):
        self.refuse(
            *(call, tmp_path / "o", scene, "--model", model, "--gsd", "1000"),
            words=["pixels of 0.5", "wanted are 1000 m"],
        )

    def test_resuming_with_a_changed_plan(self, call, tmp_path, model, scene, monkeypatch):
        import tilingseg.flow

        def interrupt(*_):
            raise KeyboardInterrupt

        out = tmp_path / "out"
        with monkeypatch.context() as patch:
            patch.setattr(tilingseg.flow, "publish", interrupt)
            code, _, err = call("run", scene, "--model", model, "-q", "-o", out)
        assert code == 130
        assert "repeat the command to go on" in err
        self.refuse(
            *(call, out, scene, "--model", model, "--threshold", "0.7"),
            words=["thresholds", "0.7", "--no-resume"],
        )
        assert call("run", scene, "--model", model, "-q", "-o", out)[0] == 0

    def test_no_network_for_a_url(self, call, tmp_path, model, monkeypatch):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")
        self.refuse(
            *(call, tmp_path / "o", f"http://127.0.0.1:{port}/scene.tif", "--model", model),
            words=[f"127.0.0.1:{port}"],
        )

    def test_url_that_does_not_exist(self, call, tmp_path, model):
        with serve(tmp_path) as url:
            self.refuse(
                call, tmp_path / "o", f"{url}/none.tif", "--model", model, words=["none.tif"]
            )


@contextmanager
def serve(folder):
    """Serve a folder on loopback."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_python_dash_m_is_the_command_line():
    done = subprocess.run(
        [sys.executable, "-m", "tilingseg", "--version"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )
    assert done.returncode == 0
    assert done.stdout.startswith("tilingseg, version ")
