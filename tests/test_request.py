import json
from dataclasses import replace

from tests.makers import make_model
from tilingseg.job import RunOptions
from tilingseg.model.load import load_model
from tilingseg.output_folder import OutputOptions
from tilingseg.request import changes, model_hash, request_of, wishes
from tilingseg.tiling import TilingOptions
from tilingseg.vectorize.layers import VectorOptions


class TestWishes:
    def test_the_defaults_are_no_wishes(self):
        assert wishes(RunOptions()) == {}

    def test_hold_what_results_depend_on_and_nothing_else(self):
        options = RunOptions(
            tta=True,
            device="cuda",
            engine="onnx",
            workers=7,
            overwrite=True,
            tiling=TilingOptions(overlap_px=32, batch_size=3, region_px=512),
            outputs=OutputOptions(
                formats=("gpkg", "cog"), vectors=VectorOptions(regularize="off", workers=5)
            ),
        )
        assert wishes(options) == {
            "tta": True,
            "tiling.overlap_px": 32,
            "outputs.formats": ["cog", "gpkg"],
            "outputs.vectors.regularize": "off",
        }

    def test_the_order_of_formats_is_none_of_them(self):
        outputs = OutputOptions(formats=("geojson", "cog"))
        assert wishes(RunOptions(outputs=outputs)) == {}

    def test_survive_json(self):
        options = RunOptions(thresholds=((None, 0.9),), box=(0.0, 1.0, 2.0, 3.5), bands=(3, 2, 1))
        found = wishes(options)
        assert json.loads(json.dumps(found)) == found

    def test_an_area_counts_by_what_is_in_its_file(self, tmp_path):
        path = tmp_path / "area.geojson"
        path.write_text("one")
        options = RunOptions(area_file=path)
        before = wishes(options)
        assert wishes(replace(options, area_file=path.parent / "." / "area.geojson")) == before
        assert wishes(replace(options, area_file=str(path))) == before
        path.write_text("two")
        assert wishes(options) != before
        assert wishes(RunOptions(area_file=tmp_path)) == {"area_file": tmp_path.name}


def test_changes_name_both_sides():
    before, after = {"tta": True, "gsd_m": 0.5}, {"gsd_m": 1.0}
    assert changes(before, after) == ["gsd_m: 0.5 → 1.0", "tta: True → default"]


def test_a_request_tells_revisions_of_a_file_apart(tmp_path):
    path = tmp_path / "a.tif"
    assert request_of(str(path), RunOptions())["revision"] == ""
    path.write_bytes(b"one")
    before = request_of(str(path), RunOptions())
    assert before["scene"] == str(path)
    path.write_bytes(b"three")
    assert request_of(str(path), RunOptions())["revision"] != before["revision"]


def test_models_are_hashed_as_plans_have_them(tmp_path):
    paths = [make_model(tmp_path / f"{seed}.safetensors", seed=seed) for seed in (1, 2)]
    found = model_hash(RunOptions(model=paths[0], further_models=(paths[1],)))
    assert found == "+".join(load_model(path).sha256 for path in paths)
