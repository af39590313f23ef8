"""`tilingseg vectorize`, end to end: odd places, odd masks, probabilities, and bad input."""

import json
import subprocess
import sys
import uuid

import geopandas
import numpy as np
import pyogrio
import pytest
import rasterio
import rasterio.features
import shapely
from affine import Affine

from tests.rfc7946 import problems
from tests.servers import file_server
from tilingseg import vector_outputs
from tilingseg.features import SUFFIXES
from tilingseg.features.measure import ground_area
from tilingseg.mask_flow import VectorizeOptions, vectorize
from tilingseg.output_folder import VECTOR_SUFFIXES, OutputOptions
from tilingseg.places import place
from tilingseg.vectorize.layers import VectorOptions

ALL = tuple(VECTOR_SUFFIXES)


def write(path, bands, crs="EPSG:32633", transform=(1, 0, 5e5, 0, -1, 5e6), **profile):
    bands = np.asarray(bands)
    bands = bands[None] if bands.ndim == 2 else bands
    count, height, width = bands.shape
    place = {} if transform is None else {"crs": crs, "transform": Affine(*transform)}
    profile = {"count": count, "height": height, "width": width, "dtype": bands.dtype} | profile
    with rasterio.open(path, "w", driver="GTiff", **place, **profile) as dataset:
        dataset.write(bands)
    return path


def run(mask, out, formats=ALL, regularize="auto", connectivity=4, **members):
    vectors = VectorOptions(regularize=regularize, workers=1, connectivity=connectivity)
    outputs = OutputOptions(formats=formats, vectors=vectors)
    return vectorize(mask, out, options=VectorizeOptions(outputs=outputs, **members))


def read(path):
    return geopandas.read_parquet(path) if path.suffix == ".parquet" else geopandas.read_file(path)


def blocks(height=90, width=120):
    """Two blocks, one with a courtyard."""
    mask = np.zeros((height, width), np.uint8)
    mask[10:40, 20:70] = 1
    mask[18:30, 30:50] = 0
    mask[55:80, 60:110] = 1
    return mask


class TestPlaces:
    def test_without_a_georeference_vectors_are_pixels_for_qupath(self, tmp_path):
        run(write(tmp_path / "m.tif", blocks(), transform=None), tmp_path, classes=("cell",))
        document = json.loads((tmp_path / "m_cell.geojson").read_text())
        assert "crs" not in document
        for feature in document["features"]:
            assert str(uuid.UUID(feature["id"])) == feature["id"]
            properties = feature["properties"]
            assert properties["objectType"] == "detection"
            assert properties["classification"]["name"] == "cell"
            assert len(properties["classification"]["color"]) == 3
            assert properties["measurements"]["area_px"] > 0
        assert shapely.from_geojson(json.dumps(document["features"][0])).bounds == (20, 10, 70, 40)
        for suffix in (".gpkg", ".fgb", ".parquet"):
            assert read(tmp_path / f"m_cell{suffix}").crs is None

    def test_pixel_coordinates_are_told(self, tmp_path):
        placed = run(write(tmp_path / "a.tif", blocks()), tmp_path / "a", ("fgb",))
        nowhere = run(write(tmp_path / "b.tif", blocks(), transform=None), tmp_path / "b", ("fgb",))
        half = run(write(tmp_path / "c.tif", blocks(), crs=None), tmp_path / "c", ("fgb",))
        assert placed.notes == []
        assert "coordinates are pixels" in nowhere.notes[0]
        assert "transform without a CRS is not used" in half.notes[0]
        command = [sys.executable, "-m", "tilingseg", "vectorize", str(tmp_path / "b.tif")]
        done = subprocess.run([*command, "-o", str(tmp_path)], capture_output=True, text=True)
        assert nowhere.notes[0] in done.stderr

    @pytest.mark.parametrize("suffix", SUFFIXES)
    @pytest.mark.parametrize("name", ["building", "field"])
    def test_across_the_antimeridian(self, tmp_path, name, suffix):
        # UTM 1 south, the columns on both sides of 180 degrees
        east = geopandas.GeoSeries([shapely.Point(180, -17)], crs=4326).to_crs(32701)[0]
        transform = (1, 0, east.x - 55, 0, -1, east.y)
        path = write(tmp_path / "m.tif", blocks(), "EPSG:32701", transform)
        result = run(path, tmp_path, classes=(name,))
        assert result.n_features[name] == 2
        frame = read(tmp_path / f"m_{name}{suffix}")
        areas = sorted(frame["area_m2"])
        # the scale of UTM far from its central meridian
        assert areas == pytest.approx([1250, 1260], rel=2e-3)
        assert frame.geometry.is_valid.all()
        if "json" in suffix:
            bounds = frame.total_bounds
            assert (bounds[0], bounds[2]) == (-180, 180)
            assert sorted(ground_area(frame.geometry.to_numpy())) == pytest.approx(areas, rel=1e-3)
            west = frame.geometry.bounds
            assert (west.maxx - west.minx > 300).sum() == 1  # the first block, cut in two parts
        else:
            assert frame.crs == "EPSG:32701"
            assert frame.total_bounds[2] - frame.total_bounds[0] == pytest.approx(90, abs=1)

    @pytest.mark.parametrize(("crs", "pole"), [("EPSG:3413", 90), ("EPSG:3031", -90)])
    def test_over_a_pole(self, tmp_path, crs, pole):
        mask = np.zeros((90, 120), np.uint8)
        mask[20:70, 35:85] = 1  # the pole in its middle
        path = write(tmp_path / "m.tif", mask, crs, (1, 0, -60, 0, -1, 45))
        run(path, tmp_path, classes=("ice",))
        text = (tmp_path / "m_ice.geojson").read_text()
        assert problems(text) == []
        (area,) = read(tmp_path / "m_ice.gpkg")["area_m2"]
        scale = {90: 0.9698, -90: 0.9728}[pole]  # of the projections, true to scale at 70 and 71°
        assert area == pytest.approx(2500 / scale**2, rel=2e-3)
        (shape,) = read(tmp_path / "m_ice.geojson").geometry
        assert pole in (shape.bounds[1], shape.bounds[3])
        assert ground_area(np.array([shape]))[0] == pytest.approx(area, rel=5e-3)


@pytest.mark.parametrize("regularize", ["off", "auto", "strict"])
class TestBuildingsInOddPlaces:
    def test_without_a_georeference(self, tmp_path, regularize):
        path = write(tmp_path / "m.tif", blocks(), transform=None)
        run(path, tmp_path, ("geojson", "gpkg"), regularize, classes=("building",))
        frame = read(tmp_path / "m_building.gpkg")
        assert frame.crs is None
        assert sorted(frame["area_px"]) == pytest.approx([1250, 1260], rel=0.01)
        document = json.loads((tmp_path / "m_building.geojson").read_text())
        assert document["features"][0]["properties"]["objectType"] == "detection"

    def test_rings_that_would_touch_themselves(self, tmp_path, regularize):
        ring = np.array([[1, 1, 1, 0, 1], [1, 0, 1, 1, 0], [1, 1, 0, 1, 0], [0, 1, 1, 1, 0]])
        mask = np.pad(np.kron(ring, np.ones((7, 7), int)), 5).astype(np.uint8)
        run(write(tmp_path / "m.tif", mask), tmp_path, ALL, regularize, classes=("building",))
        for suffix in SUFFIXES:
            frame = read(tmp_path / f"m_building{suffix}").to_crs(32633)
            assert frame.geometry.is_valid.all()
            assert frame.area.sum() == pytest.approx(mask.sum(), rel=0.05)

    def test_across_the_antimeridian(self, tmp_path, regularize):
        east = geopandas.GeoSeries([shapely.Point(180, -17)], crs=4326).to_crs(32701)[0]
        path = write(tmp_path / "m.tif", blocks(), "EPSG:32701", (1, 0, east.x - 55, 0, -1, east.y))
        run(path, tmp_path, ("geojson", "gpkg"), regularize, classes=("building",))
        assert problems((tmp_path / "m_building.geojson").read_text()) == []
        for suffix in (".geojson", ".gpkg"):
            frame = read(tmp_path / f"m_building{suffix}")
            assert sorted(frame["area_m2"]) == pytest.approx([1250, 1260], rel=0.01)
        assert (
            read(tmp_path / "m_building.geojson").geometry.geom_type.tolist().count("MultiPolygon")
        )

    def test_over_a_pole(self, tmp_path, regularize):
        mask = np.zeros((90, 120), np.uint8)
        mask[20:70, 35:85] = 1
        path = write(tmp_path / "m.tif", mask, "EPSG:3031", (1, 0, -60, 0, -1, 45))
        run(path, tmp_path, ("geojson", "gpkg"), regularize, classes=("building",))
        assert problems((tmp_path / "m_building.geojson").read_text()) == []
        (area,) = read(tmp_path / "m_building.gpkg")["area_m2"]
        assert area == pytest.approx(2500 / 0.9728**2, rel=0.01)
        (shape,) = read(tmp_path / "m_building.geojson").geometry
        assert shape.bounds[1] == -90

    def test_an_empty_mask(self, tmp_path, regularize):
        path = write(tmp_path / "m.tif", np.zeros((30, 30), np.uint8))
        result = run(path, tmp_path, ALL, regularize, classes=("building",))
        assert result.n_features == {"building": 0}
        assert len(read(tmp_path / "m_building.fgb")) == 0


class TestNames:
    def test_the_signature_of_a_url_is_in_no_name(self, tmp_path):
        path = write(tmp_path / "m_mask.tif", blocks())
        query = "?X-Amz-Credential=AK/2026/s3/aws4_request&X-Amz-Signature=0a"
        with file_server() as server:
            server.files[f"/m_mask.tif{query}"] = path.read_bytes()
            url = f"{server.url}/m_mask.tif{query}"
            run(url, tmp_path / "o", ("geojson",), classes=("roof",))
        names = {"m_roof.geojson", "m_roof.qml"}
        assert {path.name for path in (tmp_path / "o").iterdir()} == names

    @pytest.mark.parametrize("name", ["a;b.tif", "a!b.tif", "a b_mask.tif"])
    def test_any_name_of_a_mask_gives_every_format(self, tmp_path, name):
        run(write(tmp_path / name, blocks()), tmp_path / "o", classes=("roof",))
        names = {f"a_b_roof{suffix}" for suffix in (*VECTOR_SUFFIXES.values(), ".qml")}
        assert {path.name for path in (tmp_path / "o").iterdir()} == names


class TestMasks:
    def test_rings_that_would_touch_themselves_are_valid_in_every_format(self, tmp_path):
        mask = np.kron(
            np.array([
                [0, 0, 0, 0, 0, 0, 0],
                [0, 1, 1, 1, 0, 1, 0],  # closes over a diagonal
                [0, 1, 0, 1, 1, 0, 0],
                [0, 1, 1, 0, 1, 0, 0],
                [0, 0, 1, 1, 1, 0, 0],
                [0, 1, 0, 0, 0, 1, 0],
            ]),
            np.ones((5, 5), int),
        ).astype(np.uint8)  # fmt: skip
        path = write(tmp_path / "m.tif", mask)
        for name in ("field", "building", "road"):
            for regularize in ("off", "auto"):
                out = tmp_path / name / regularize
                out.mkdir(parents=True)
                run(path, out, classes=(name,), regularize=regularize)
                for suffix in SUFFIXES:
                    assert read(out / f"m_{name}{suffix}").geometry.is_valid.all()
        fields = read(tmp_path / "field" / "off" / "m_field.gpkg")
        assert fields.area.sum() == mask.sum()
        assert len(fields) == 4  # corners do not connect

    def test_pixels_that_touch_in_a_corner_are_one_object_if_asked_for(self, tmp_path):
        mask = (np.random.default_rng(3).random((70, 60)) < 0.4).astype(np.uint8)
        path = write(tmp_path / "m.tif", mask)
        run(path, tmp_path, classes=("field",), connectivity=8)
        place = Affine(1, 0, 5e5, 0, -1, 5e6)
        whole = [
            shapely.make_valid(shapely.geometry.shape(shape))
            for shape, _ in rasterio.features.shapes(mask, mask == 1, 8, place)
        ]
        for suffix in SUFFIXES:
            frame = read(tmp_path / f"m_field{suffix}")
            assert len(frame) == len(whole)
            assert frame.geometry.is_valid.all()
        frame = read(tmp_path / "m_field.gpkg")
        assert set(frame.geom_type) == {"MultiPolygon"}
        true, found = (
            {
                geometry.wkt
                for geometry in shapely.normalize(
                    [shapely.multipolygons(shapely.get_parts(one)) for one in every]
                )
            }
            for every in (whole, frame.geometry)
        )
        assert true == found
        # the scale of UTM on its central meridian
        assert frame["area_m2"].sum() == pytest.approx(mask.sum() / 0.9996**2, rel=1e-4)
        assert pyogrio.read_info(tmp_path / "m_field.gpkg")["geometry_type"] == "MultiPolygon"

    def test_objects_over_corners_keep_their_mean_probability(self, tmp_path):
        probability = np.zeros((30, 30), np.float32)
        probability[5:10, 5:10], probability[10:20, 10:20] = 0.6, 0.9
        path = write(tmp_path / "p.tif", probability)
        run(path, tmp_path, ("gpkg",), classes=("pond",), connectivity=8)
        (pond,) = read(tmp_path / "p_pond.gpkg").itertuples()
        assert pond.geometry.is_valid
        assert len(pond.geometry.geoms) == 2
        assert pond.confidence == pytest.approx((0.6 * 25 + 0.9 * 100) / 125, abs=2e-3)

    def test_buildings_do_not_join_over_corners(self, tmp_path):
        mask = np.kron(np.eye(2, dtype=np.uint8), np.ones((20, 20), np.uint8))
        path = write(tmp_path / "m.tif", mask)
        result = run(path, tmp_path, ("gpkg",), classes=("building",), connectivity=8)
        assert result.n_features == {"building": 2}

    @pytest.mark.parametrize("crs", ["EPSG:32633", None])
    def test_layers_without_a_road_have_the_columns_of_those_with_one(self, tmp_path, crs):
        mask = np.zeros((90, 120), np.uint8)
        columns = {}
        for name, value in (("empty", 0), ("one", 1)):
            mask[40:48] = value
            place = {} if crs else {"transform": None}
            run(write(tmp_path / f"{name}.tif", mask, **place), tmp_path, ALL, classes=("road",))
            for suffix in (".gpkg", ".fgb", ".parquet"):
                frame = read(tmp_path / f"{name}_road_centerline{suffix}")
                assert len(frame) == value
                columns[name, suffix] = list(frame.columns)
                if suffix == ".parquet":
                    columns[name, "types"] = [str(frame[c].dtype) for c in frame.columns[3:-1]]
        unit = "m" if crs else "px"
        for key in (".gpkg", ".fgb", ".parquet", "types"):
            assert columns["empty", key] == columns["one", key]
        assert {f"width_{unit}", f"joined_{unit}"} < set(columns["empty", ".gpkg"])

    def test_an_empty_mask_gives_the_empty_layers_that_were_named(self, tmp_path):
        path = write(tmp_path / "m.tif", np.zeros((30, 30), np.uint8))
        result = run(path, tmp_path, classes=("building", "road"))
        assert result.n_features == {"building": 0, "road": 0, "road_centerline": 0}
        for suffix in (".geojson", ".geojsonl", ".gpkg", ".fgb", ".parquet"):
            assert len(read(tmp_path / f"m_road_centerline{suffix}")) == 0
        assert pyogrio.read_info(tmp_path / "m_building.gpkg")["crs"] == "EPSG:32633"

    @pytest.mark.parametrize("name", ["building", "road", "field"])
    def test_ids_and_bytes_are_the_same_in_every_run(self, tmp_path, name):
        mask = np.kron(np.random.default_rng(5).integers(0, 2, (14, 16)), np.ones((9, 9), int))
        path = write(tmp_path / "m.tif", mask.astype(np.uint8))
        for out in ("one", "two"):
            run(path, tmp_path / out, ("geojson", "geojsonseq"), classes=(name,))
        files = sorted((tmp_path / "one").iterdir())
        assert len(files) >= 3
        for file in files:
            assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()

    def test_neither_a_network_nor_scipy_is_loaded_for_outlines(self, tmp_path):
        path = write(tmp_path / "m.tif", blocks())
        script = (
            "import sys\nfrom tilingseg.mask_flow import vectorize\n"
            f"vectorize({str(path)!r}, {str(tmp_path)!r})\n"
            "heavy = {'torch', 'zarr', 'skimage', 'scipy'} & set(sys.modules)\n"
            "sys.exit(f'imported {heavy}' if heavy else 0)"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


class TestBackgroundDeclaredAsNodata:
    """As `gdal_rasterize -a_nodata 0` and QGIS leave it: the ground beside a class is no border."""

    @pytest.mark.parametrize("kind", ["classes", "float classes", "probabilities"])
    def test_gives_the_outlines_of_a_mask_that_does_not(self, tmp_path, kind):
        turned = shapely.affinity.rotate(shapely.box(500_030, 4_999_930, 500_090, 4_999_970), 20)
        mask = rasterio.features.rasterize(
            [(turned, 1)], out_shape=(130, 130), transform=Affine(1, 0, 5e5, 0, -1, 5e6)
        ).astype("uint8" if kind == "classes" else "float32")
        mask *= 0.9 if kind == "probabilities" else 1
        mask[110:114, 110:120] += 2 if kind == "float classes" else 0
        layers, results = {}, {}
        for nodata in (None, 0):
            path = write(tmp_path / f"m{nodata}.tif", mask, nodata=nodata)
            classes = ("building", "road") if kind == "float classes" else ("building",)
            results[nodata] = run(path, tmp_path, ("gpkg",), classes=classes)
            layers[nodata] = read(tmp_path / f"m{nodata}_building.gpkg")
        assert layers[0].geometry.geom_equals(layers[None].geometry).all()
        assert len(layers[0].geometry[0].exterior.coords) == 5
        assert not any("0 to be nodata" in note for note in results[None].notes)
        assert any("0 to be nodata" in note for note in results[0].notes)


class TestOneFolderForManyMasks:
    """What stands in a folder, and what others write there meanwhile, is left alone."""

    def test_two_commands_at_once(self, tmp_path, monkeypatch):
        one, other, out = blocks(), blocks(), tmp_path / "out"
        one[55:80] = 0
        for name, mask in (("one", one), ("other", other)):
            write(tmp_path / f"{name}.tif", mask)
        real, begun = vector_outputs.write_features, []

        def write_features(features, path, layer):
            """Let the other command do all that it does before the first file of this one."""
            begun.append(path.name)
            if begun == ["one_lake.gpkg"]:
                run(tmp_path / "other.tif", out, ("gpkg", "fgb"), classes=("lake",))
            return real(features, path, layer)

        monkeypatch.setattr(vector_outputs, "write_features", write_features)
        result = run(tmp_path / "one.tif", out, ("gpkg", "fgb"), classes=("lake",))
        assert result.n_features == {"lake": 1}
        for suffix in (".gpkg", ".fgb"):
            assert len(read(out / f"one_lake{suffix}")) == 1
            assert len(read(out / f"other_lake{suffix}")) == 2
        assert {path.suffix for path in out.iterdir()} == {".gpkg", ".fgb", ".qml"}

    def test_files_with_names_like_those_of_outputs_are_kept(self, tmp_path):
        mine = ["m_lake.geojson.part1.zip", "m_lake.geojson.parts.txt", "features.part/mine.txt"]
        (tmp_path / "features.part").mkdir()
        for name in mine:
            (tmp_path / name).write_text("mine")
        mask = write(tmp_path / "m.tif", blocks())
        run(mask, tmp_path, ("geojson", "gpkg"), classes=("lake",))
        assert [(tmp_path / name).read_text() for name in mine] == ["mine"] * 3


def test_vectors_go_to_an_object_store(tmp_path, monkeypatch, call, object_store):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "m.tif", blocks())
    out = f"{object_store}/vectors"
    arguments = ("vectorize", "m.tif", "-o", out, "--classes", "lake", "--formats", "gpkg,geojson")
    code, told, err = call(*arguments)
    assert (code, err) == (0, "lake       2 features\n")
    written = [f"{out}/m_lake{suffix}" for suffix in (".gpkg", ".geojson", ".qml")]
    assert told.splitlines() == written
    assert len(json.loads(place(written[1]).read_text())["features"]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.tif"]
    code, _, err = call(*arguments)
    assert (code, err.count("\n")) == (1, 1)
    assert "m_lake.gpkg exists; replace it with --overwrite" in err
    code, _, err = call("vectorize", "m.tif", "-o", "s3://nobucket/x")
    assert (code, err.count("\n")) == (1, 1)
    assert "s3://nobucket/x cannot be written" in err
    code, _, err = call("evaluate", "recipe.toml", "-o", out)
    assert code == 2
    assert f"{out} is no folder of this machine" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.tif"]


class TestProbabilities:
    def test_outlines_run_between_the_pixels(self, tmp_path):
        y, x = np.mgrid[:80, :90] + 0.5
        probability = 1 / (1 + np.exp(np.hypot(x - 45.2, y - 40.7) - 25))
        path = write(tmp_path / "m_probability.tif", probability.astype(np.float32))
        run(path, tmp_path, ("gpkg",), classes=("pond",))
        (pond,) = read(tmp_path / "m_pond.gpkg").itertuples()
        true = shapely.Point(5e5 + 45.2, 5e6 - 40.7).buffer(25, 100)
        assert shapely.hausdorff_distance(pond.geometry.boundary, true.boundary) < 0.15
        inside = probability >= 0.5
        assert pond.confidence == pytest.approx(probability[inside].mean(), abs=3e-3)

    def test_a_threshold_can_be_given_for_each_class(self, tmp_path):
        bands = np.zeros((2, 40, 40), np.float32)
        bands[0, 5:15, 5:15], bands[1, 20:30, 20:30] = 0.4, 0.6
        path = write(tmp_path / "p.tif", bands)
        counts = run(path, tmp_path, ("fgb",), thresholds=(("class_1", 0.3), ("class_2", 0.7)))
        assert counts.n_features == {"class_1": 1, "class_2": 0}


class TestCommandLine:
    """Bad input is one line on stderr, exit code 1, and no file."""

    def refuse(self, out, *arguments):
        command = [sys.executable, "-m", "tilingseg", "vectorize", *map(str, arguments)]
        done = subprocess.run([*command, "-o", str(out)], capture_output=True, text=True)
        assert done.returncode == 1, done.stderr
        assert done.stdout == ""
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1, done.stderr
        assert not out.exists() or not list(out.iterdir())
        return done.stderr

    def test_a_class_that_is_not_there(self, tmp_path):
        path = write(tmp_path / "m.tif", blocks() * np.uint8(2))
        assert "has no class" in self.refuse(tmp_path / "o", path, "--classes", "class_2,tree")

    def test_a_class_that_is_no_layer(self, tmp_path):
        path = write(tmp_path / "m.tif", blocks() * np.uint8(2))
        with rasterio.open(path, "r+") as dataset:
            names = {"1": "building", "2": "building_boundary"}
            dataset.update_tags(TILINGSEG_CLASSES=json.dumps(names))
        told = self.refuse(tmp_path / "o", path, "--classes", "building_boundary")
        assert "building_boundary divides buildings and is no layer" in told

    def test_an_empty_mask_without_names(self, tmp_path):
        path = write(tmp_path / "m.tif", np.zeros((30, 30), np.uint8))
        assert "holds no class" in self.refuse(tmp_path / "o", path)

    def test_fractions_that_are_no_probabilities(self, tmp_path):
        path = write(tmp_path / "m.tif", blocks().astype(np.float32) * 2.5)
        assert "holds float32 values such as 2.5" in self.refuse(tmp_path / "o", path)

    def test_a_class_named_twice(self, tmp_path):
        path = write(tmp_path / "m.tif", blocks())
        told = self.refuse(tmp_path / "o", path, "--classes", "roof,road,roof")
        assert "'roof' is named 2 times" in told

    def test_a_pixel_of_no_size_and_an_unknown_format(self, tmp_path):
        path = write(tmp_path / "m.tif", blocks())
        told = self.refuse(tmp_path / "o", path, "--pixel-size", "0")
        assert "a pixel size is a number of metres above 0, not 0" in told
        told = self.refuse(tmp_path / "o", path, "--formats", "shp")
        assert "'shp' is none of geojson, geojsonseq, gpkg, fgb, parquet (vectors)" in told

    def test_a_threshold_for_a_mask(self, tmp_path):
        path = write(tmp_path / "m.tif", blocks())
        assert "nothing to cut" in self.refuse(tmp_path / "o", path, "--threshold", "0.4")

    def test_a_file_cut_short(self, tmp_path):
        rng = np.random.default_rng(0)
        path = write(tmp_path / "m.tif", rng.integers(0, 3, (300, 300)).astype(np.uint8))
        path.write_bytes(path.read_bytes()[:40_000])
        assert "m.tif" in self.refuse(tmp_path / "o", path)
