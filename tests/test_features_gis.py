"""What GIS programs see when they open the files: QGIS by its own Python, and GDAL's ogrinfo.

Both are system packages (Debian: python3-qgis, gdal-bin); without them these tests are skipped.
"""

import functools
import json
import os
import shutil
import subprocess

import numpy as np
import pytest
import shapely

from tilingseg.features import SUFFIXES, Layer, write_features, write_style
from tilingseg.records import Feature, Georef

SYSTEM_PYTHON = "/usr/bin/python3"
COLOUR = (20, 130, 210)
UTM = Georef(crs="EPSG:32633", transform=(0.5, 0, 500_000, 0, -0.5, 5_000_000), pixel_m=(0.5, 0.5))
PIXELS = Georef(crs=None, transform=(1, 0, 0, 0, 1, 0), pixel_m=None)
N_FEATURES = 40

LOOK = """
import json, sys
from qgis.core import QgsApplication, QgsVectorLayer, QgsWkbTypes
app = QgsApplication([], False)
app.initQgis()
seen = {}
for path in sys.argv[1:]:
    layer = QgsVectorLayer(path, "layer", "ogr")
    features = list(layer.getFeatures()) if layer.isValid() else []
    seen[path] = {
        "valid": layer.isValid(),
        "crs": layer.crs().authid(),
        "count": layer.featureCount(),
        "drawn": len(features),
        "broken": sum(not feature.geometry().isGeosValid() for feature in features),
        "type": QgsWkbTypes.geometryDisplayString(layer.geometryType()),
        "bounds": [layer.extent().xMinimum(), layer.extent().yMaximum()],
        "fields": [field.name() for field in layer.fields()],
        "colour": layer.renderer().symbol().color().name() if layer.renderer() else None,
    }
print("SEEN" + json.dumps(seen))
app.exitQgis()
"""


@functools.cache
def why_no_qgis():
    if not os.access(SYSTEM_PYTHON, os.X_OK):
        return f"no {SYSTEM_PYTHON}"
    done = system_python("import qgis.core")
    return None if done.returncode == 0 else "QGIS's Python package (python3-qgis) is not installed"


def system_python(script, *arguments):
    """Run a script by the system's interpreter, far from this environment's packages."""
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    return subprocess.run(
        [SYSTEM_PYTHON, "-s", "-c", script, *arguments],
        env={"PATH": "/usr/bin:/bin", "QT_QPA_PLATFORM": "offscreen", **kept},
        capture_output=True,
        text=True,
        timeout=100,
    )


def drivers():
    done = subprocess.run(["/usr/bin/ogrinfo", "--formats"], capture_output=True, text=True)
    return done.stdout


def write_all(folder, georef, geometry_type):
    rng = np.random.default_rng(0)
    features = []
    for x, y, w, h in rng.integers(2, 500, (N_FEATURES, 4)).tolist():
        outline = shapely.box(x, y, x + w, y + h)
        line = shapely.LineString([(x, y), (x + w, y + h)])
        features.append(
            Feature(
                class_name="building",
                geometry=outline if geometry_type == "Polygon" else line,
                confidence=float(rng.random()),
            )
        )
    layer = Layer(name="scene_building", georef=georef, geometry_type=geometry_type, color=COLOUR)
    paths = []
    for suffix in SUFFIXES:
        paths.append(folder / suffix[1:] / f"scene_building{suffix}")
        paths[-1].parent.mkdir(parents=True)
        write_features(features, paths[-1], layer)
        write_style(paths[-1].with_suffix(".qml"), layer)
    return paths


@pytest.fixture(scope="module")
def in_qgis(tmp_path_factory):
    """What QGIS says of every file of every kind: {(georef, type, suffix): …}."""
    reason = why_no_qgis()
    if reason:
        pytest.skip(reason)
    names = {}
    for kind, georef in (("map", UTM), ("pixels", PIXELS)):
        for geometry_type in ("Polygon", "LineString"):
            folder = tmp_path_factory.mktemp("gis")
            for path in write_all(folder, georef, geometry_type):
                names[str(path)] = (kind, geometry_type, path.suffix)
    done = system_python(LOOK, *names)
    assert "SEEN" in done.stdout, done.stderr
    seen = json.loads(done.stdout.partition("SEEN")[2].splitlines()[0])
    return {names[path]: facts for path, facts in seen.items()}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("geometry_type", ["Polygon", "LineString"])
@pytest.mark.parametrize("kind", ["map", "pixels"])
def test_qgis_opens_each_format_with_crs_count_and_colour(in_qgis, kind, geometry_type, suffix):
    if suffix == ".parquet" and "Parquet" not in drivers():
        pytest.skip("the system's GDAL has no Parquet driver")
    facts = in_qgis[kind, geometry_type, suffix]
    assert facts["valid"]
    assert facts["count"] == facts["drawn"] == N_FEATURES
    assert facts["broken"] == 0
    assert facts["type"] == {"Polygon": "Polygon", "LineString": "Line"}[geometry_type]
    assert facts["colour"] == "#{:02x}{:02x}{:02x}".format(*COLOUR)
    if kind == "map":
        assert facts["crs"] == ("EPSG:4326" if "json" in suffix else "EPSG:32633")
        assert {"id", "class", "confidence"} < set(facts["fields"])
        west, north = facts["bounds"]
        if "json" in suffix:
            assert (west, north) == pytest.approx((15.0, 45.15), abs=0.01)
        else:
            assert (west, north) == pytest.approx((500_000, 5_000_000), abs=20)
    elif "json" not in suffix:  # GDAL takes any GeoJSON for degrees, QuPath's as well
        assert facts["crs"] == ""


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_ogrinfo_opens_each_format(tmp_path, suffix):
    if shutil.which("ogrinfo", path="/usr/bin") is None:
        pytest.skip("ogrinfo (gdal-bin) is not installed")
    if suffix == ".parquet" and "Parquet" not in drivers():
        pytest.skip("the system's GDAL has no Parquet driver")
    path = next(path for path in write_all(tmp_path, UTM, "Polygon") if path.suffix == suffix)
    done = subprocess.run(
        ["/usr/bin/ogrinfo", "-so", "-al", str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stderr == ""
    assert f"Feature Count: {N_FEATURES}" in done.stdout
    assert "Geometry: Polygon" in done.stdout
    assert ('ID["EPSG",4326]' if "json" in suffix else 'ID["EPSG",32633]') in done.stdout
