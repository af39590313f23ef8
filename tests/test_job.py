from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tilingseg.job
from tests.makers import make_geotiff, make_model, smooth_noise
from tilingseg import flow
from tilingseg.errors import PlanError
from tilingseg.job import RunOptions, estimate_job, prepare
from tilingseg.records import Scaling
from tilingseg.tiling import TilingOptions


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("job")


@pytest.fixture(scope="module")
def model(folder):
    return make_model(folder / "tiny.safetensors")


@pytest.fixture(scope="module")
def scene(folder):
    return make_geotiff(folder / "scene.tif", smooth_noise(700, 900))


def options_for(model, **changes):
    return RunOptions(model=model, device="cpu", **changes)


def test_a_scene_is_one_plan_however_its_path_is_written(model, scene, monkeypatch):
    options = options_for(model)
    plans = [prepare(str(scene), options).plan]
    monkeypatch.chdir(scene.parent)
    plans += [prepare(uri, options).plan for uri in ("scene.tif", "./scene.tif")]
    monkeypatch.chdir(scene.parent.parent)
    plans.append(prepare(f"{scene.parent.name}/scene.tif", options).plan)
    assert all(plan == plans[0] for plan in plans)


def test_preparing_reads_no_pixel(model, scene, monkeypatch):
    opened = tilingseg.job.open_scene

    def blind(*args, **kwargs):
        reader = opened(*args, **kwargs)

        def refuse(*_):
            raise AssertionError("a pixel was read")

        monkeypatch.setattr(type(reader), "read", refuse)
        monkeypatch.setattr(type(reader), "read_reduced", refuse)
        return reader

    monkeypatch.setattr(tilingseg.job, "open_scene", blind)
    job = prepare(str(scene), options_for(model, tiling=TilingOptions(tile_size_px=128)))
    estimate = tilingseg.job.estimate_job(job)
    assert estimate.seconds > 0
    assert estimate.inferred_ratio > 1


def test_workers_of_one_processor_share_it(model, scene, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    one = prepare(str(scene), options_for(model, workers=3))
    two = prepare(str(scene), replace(options_for(model, workers=3), device="cpu,cpu"))
    assert (one.workers, two.workers) == (3, 2)
    assert one.plan == two.plan
    monkeypatch.setattr(tilingseg.job, "estimate_run", lambda *measured: measured[2:])
    assert [estimate_job(job) for job in (one, two)] == [(3, 1), (2, 2)]
    before, found = torch.get_num_threads(), []
    made = tilingseg.job.make_engine

    def make(*arguments):
        found.append(torch.get_num_threads())
        return made(*arguments)

    monkeypatch.undo()
    monkeypatch.setattr(tilingseg.job, "make_engine", make)
    torch.set_num_threads(4)
    try:
        options = replace(options_for(model), device="cpu,cpu", tiling=TilingOptions(region_px=256))
        flow.run(scene, scene.parent / "shared", options=options)
    finally:
        torch.set_num_threads(before)
    assert set(found) == {2}


@pytest.mark.parametrize("blend", ["exact", "hann"])
def test_a_scene_smaller_than_the_halo_is_estimated(folder, model, blend):
    path = make_geotiff(folder / f"small_{blend}.tif", smooth_noise(9, 7))
    job = prepare(
        str(path), options_for(model, tiling=TilingOptions(tile_size_px=128, blend=blend))
    )
    assert estimate_job(job).seconds > 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": ("tree",)}, "no class 'tree'; it has building, road"),
        ({"thresholds": (("road", 1.5),)}, "threshold 1.5 must lie between 0 and 1"),
        ({"thresholds": (("tree", 0.5),)}, "no class 'tree'"),
        ({"workers": 0}, "workers must be 1 or more, got 0"),
        ({"box": (0.0, 0.0, 1.0, 1.0)}, "does not overlap the scene"),
    ],
)
def test_impossible_wishes_are_refused(model, scene, changes, words):
    with pytest.raises(PlanError, match=words):
        prepare(str(scene), options_for(model, **changes))


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_the_next_scene_gets_the_engine_of_the_last_one(folder, model, monkeypatch, engine):
    if engine != "torch":
        pytest.importorskip("onnxruntime")
    scenes = [
        make_geotiff(folder / f"{engine}{n}.tif", smooth_noise(96, 80, seed=n)) for n in range(2)
    ]
    options = options_for(model, engine=engine)
    made = []
    make = tilingseg.job.make_engine
    monkeypatch.setattr(tilingseg.job, "make_engine", lambda *a: made.append(a) or make(*a))

    def masks(name):
        found = []
        for path in scenes:
            report = flow.run(path, folder / name / path.stem, options=options)
            found.append(Path(dict(report.outputs)["mask"]).read_bytes())
        return found

    kept = masks(f"{engine}-kept")
    assert len(made) == 1
    monkeypatch.setattr(tilingseg.job, "KEPT_TILE_PX", 0)
    tilingseg.job._KEPT.clear()
    assert masks(f"{engine}-anew") == kept
    assert len(made) == 3


def test_an_engine_that_is_lent_is_lent_to_one(model, scene):
    scaling = Scaling(low=(0.0,) * 3, high=(255.0,) * 3, source="uint8")
    job = prepare(str(scene), options_for(model, tiling=TilingOptions(tile_size_px=256)))
    try:
        with job.lent_engine("cpu", scaling), job.lent_engine("cpu", scaling):
            assert not tilingseg.job._KEPT
        assert len(tilingseg.job._KEPT) == 1
        with pytest.raises(RuntimeError), job.lent_engine("cpu", scaling):
            raise RuntimeError
        assert not tilingseg.job._KEPT, "one that failed is not lent again"
    finally:
        job.reader.close()


@pytest.fixture(autouse=True)
def nothing_kept():
    tilingseg.job._KEPT.clear()
    yield
    tilingseg.job._KEPT.clear()
