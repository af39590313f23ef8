"""What files are called after classes of any name, and what is refused before anything is done."""

from dataclasses import replace

import numpy as np
import pyogrio
import pytest

from tests.makers import SPEC, make_geotiff, make_model, smooth_noise
from tilingseg import flow
from tilingseg.errors import PlanError
from tilingseg.job import RunOptions
from tilingseg.mask_flow import VectorizeOptions, vectorize
from tilingseg.output_folder import VECTOR_SUFFIXES, OutputFolder, OutputOptions
from tilingseg.vectorize.layers import VectorOptions, layer_names

ALONE = VectorOptions(workers=1)
ODD = {
    "forest/wood": "forest_wood",
    "../../evil": "evil",
    "C:\\roof; 'red' \"tile\"?": "C_roof_red_tile",
    "Straße\nnach Süden!": "Straße_nach_Süden",
    "***": "layer",
    "की": "की",
    "का": "का",
}
"""Names of classes, and what their files are called."""
ALIKE = [
    ("road", "road_centerline"),
    ("Street", "street_CENTERLINE"),
    ("forest", "Forest"),
    ("bare soil", "bare_soil"),
    ("a/b", "a\\b"),
]


@pytest.fixture(scope="module")
def mask(tmp_path_factory):
    """A block of each of the classes of `ODD`."""
    values = np.zeros((1, 60, 160), np.uint8)
    for value in range(1, len(ODD) + 1):
        values[0, 10:40, value * 20 - 10 : value * 20 + 5] = value
    return make_geotiff(tmp_path_factory.mktemp("mask") / "m.tif", values)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A block of each of two classes."""
    values = np.zeros((1, 60, 60), np.uint8)
    values[0, 10:40, 5:25], values[0, 10:40, 35:55] = 1, 2
    return make_geotiff(tmp_path_factory.mktemp("pair") / "m.tif", values)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return make_geotiff(tmp_path_factory.mktemp("scene") / "s.tif", smooth_noise(64, 64))


def of(classes, formats):
    outputs = OutputOptions(formats=formats, vectors=ALONE)
    return VectorizeOptions(classes=classes, outputs=outputs)


def model_options(folder, classes, formats):
    """Options of a run with a model of these classes."""
    model = make_model(folder / "model.safetensors", replace(SPEC, classes=classes))
    outputs = OutputOptions(formats=formats, vectors=ALONE)
    return RunOptions(model=model, device="cpu", engine="torch", outputs=outputs)


def test_classes_of_any_name_get_files_of_their_own(mask, tmp_path):
    out = tmp_path / "deep" / "out"
    results = vectorize(mask, out, options=of(tuple(ODD), tuple(VECTOR_SUFFIXES)))
    assert results.n_features == dict.fromkeys(ODD, 1)
    suffixes = (*VECTOR_SUFFIXES.values(), ".qml")
    named = {f"m_{stem}{suffix}" for stem in ODD.values() for suffix in suffixes}
    assert {path.name for path in out.iterdir()} == named
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    for name, stem in ODD.items():
        assert pyogrio.list_layers(out / f"m_{stem}.gpkg")[0, 0] == f"m_{stem}"
        for suffix in (".gpkg", ".fgb", ".geojson"):
            found = pyogrio.read_dataframe(out / f"m_{stem}{suffix}")
            assert list(found["class"]) == [name], "in the file the class has its own name"


def test_a_model_with_classes_of_any_name_runs(scene, tmp_path):
    options = model_options(tmp_path, ("forest/wood", "../road"), ("cog", "geojson", "gpkg"))
    report = flow.run(scene, tmp_path / "out", options=options)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"s_forest_wood.geojson", "s_road.gpkg", "s_mask.tif", "run.json"} <= names
    assert {name for name, _ in report.n_features} == {"forest/wood", "../road"}
    assert not list(tmp_path.glob("*road*"))


@pytest.mark.parametrize("classes", ALIKE)
def test_classes_that_would_share_a_file_are_refused_before_anything_is_done(
    scene, pair, tmp_path, classes
):
    told = rf"classes '{classes[0]}' and '.*' would both write .*; choose one .* with --classes"
    options = model_options(tmp_path, classes, ("cog", "geojson"))
    with pytest.raises(PlanError, match=told.replace("\\", "\\\\")):
        flow.run(scene, tmp_path / "out", options=options)
    with pytest.raises(PlanError, match="would both write"):
        vectorize(pair, tmp_path / "out", options=of(classes, ("geojson",)))
    assert not (tmp_path / "out").exists()


def test_what_killed_writers_left_of_an_output_is_not_in_the_way(scene, tmp_path):
    options = model_options(tmp_path, ("x", "y"), ("cog", "zarr", "geojson"))
    folder = OutputFolder(path=tmp_path / "out", scene="s")
    for path in folder.files(layer_names(("x", "y"), (0, 1)), options.outputs):
        unfinished = path.with_name(path.name + ".part")
        unfinished.mkdir(parents=True)
        (unfinished / path.name).write_text("half")
    report = flow.run(scene, folder.path, options=options)
    assert all(folder.path.joinpath(path).exists() for _, path in report.outputs)
    assert not folder.report.with_name("run.json.part").exists()


def test_such_classes_are_no_trouble_alone_or_as_rasters(scene, tmp_path):
    options = model_options(tmp_path, ("road", "road_centerline"), ("cog",))
    flow.run(scene, tmp_path / "both", options=options)
    assert (tmp_path / "both" / "s_mask.tif").exists()
    outputs = OutputOptions(formats=("geojson",), vectors=ALONE)
    options = replace(options, classes=("road_centerline",), outputs=outputs)
    flow.run(scene, tmp_path / "one", options=options)
    assert (tmp_path / "one" / "s_road_centerline.geojson").exists()


def test_a_name_that_no_file_can_have_is_refused_before_anything_is_done(scene, tmp_path):
    options = model_options(tmp_path, ("building", "wood" * 70), ("geojson",))
    with pytest.raises(PlanError, match=r"s_woodwood.*… has 290 bytes, and 240 can be written"):
        flow.run(scene, tmp_path / "out", options=options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("formats", [("gpkg",), ("fgb", "geojson")])
def test_a_folder_that_gdal_takes_for_an_archive_is_refused_before_anything_is_done(
    scene, pair, tmp_path, formats
):
    out = tmp_path / "a!b" / "out"
    told = rf"{formats[0]} cannot be written into .*a!b/out: there is a '!' in its path; choose"
    with pytest.raises(PlanError, match=told):
        flow.run(scene, out, options=model_options(tmp_path, ("x", "y"), formats))
    with pytest.raises(PlanError, match=told):
        vectorize(pair, out, options=of(("x", "y"), formats))
    assert not out.exists()
    vectorize(pair, out, options=of(("x", "y"), ("geojson", "parquet")))
    assert {"m_x.geojson", "m_y.parquet"} <= {path.name for path in out.iterdir()}
