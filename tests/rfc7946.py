"""An independent check of RFC 7946, written from the text of the standard.

`problems(text)` returns what is wrong with a GeoJSON text, one sentence each; nothing here is taken
from the code under test. Numbers are read as decimals, so that digits are counted as written.
"""

import json
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

import shapely
import shapely.geometry

MAX_DECIMALS = 7
GEOMETRY_DEPTH = {
    "Point": 0,
    "MultiPoint": 1,
    "LineString": 1,
    "MultiLineString": 2,
    "Polygon": 2,
    "MultiPolygon": 3,
}


def problems(text):
    found = []
    try:
        document = json.loads(text, parse_float=Decimal, parse_constant=_refuse_constant)
    except ValueError as error:
        return [f"not JSON: {error}"]
    if document.get("type") != "FeatureCollection":
        return [f"type is {document.get('type')!r}, not FeatureCollection"]
    if "crs" in document:
        found.append("section 4: there is a crs member")
    if not isinstance(document.get("features"), list):
        return [*found, "section 3.3: features is no array"]
    for number, feature in enumerate(document["features"]):
        found += [f"feature {number}: {problem}" for problem in _of_feature(feature)]
    ids = [feature.get("id") for feature in document["features"] if "id" in feature]
    if len(set(ids)) != len(ids):
        found.append("ids repeat")
    return found


def _refuse_constant(name):
    raise ValueError(f"{name} is no JSON number")


def _of_feature(feature):
    if feature.get("type") != "Feature":
        return [f"type is {feature.get('type')!r}"]
    found = []
    if "geometry" not in feature or "properties" not in feature:
        found.append("section 3.2: no geometry or no properties member")
    if not isinstance(feature.get("properties"), dict | None):
        found.append("section 3.2: properties is neither object nor null")
    if not isinstance(feature.get("id", 0), str | int | Decimal):
        found.append("section 3.2: id is neither text nor number")
    foreign = {"crs", "coordinates", "geometries", "features"} & set(feature)
    found += [f"section 7.1: a feature has no {member}" for member in foreign]
    return found + _of_geometry(feature.get("geometry"))


def _of_geometry(geometry):
    if geometry is None:
        return ["no geometry"]
    kind = geometry.get("type")
    if kind not in GEOMETRY_DEPTH:
        return [f"geometry type {kind!r}"]
    positions = list(_flat(geometry["coordinates"], GEOMETRY_DEPTH[kind]))
    found = [problem for position in positions for problem in _of_position(position)]
    if not positions or found:
        return found or ["no coordinates"]
    coordinates = geometry["coordinates"]
    polygons = {"Polygon": [coordinates], "MultiPolygon": coordinates}.get(kind, [])
    for rings in polygons:
        for number, ring in enumerate(rings):
            found += _of_ring(ring, is_shell=number == 0)
    lines = {"LineString": [coordinates], "MultiLineString": coordinates}.get(kind, [])
    for line in [*lines, *(ring for rings in polygons for ring in rings)]:
        long = [(a, b) for a, b in pairwise(line) if abs(b[0] - a[0]) > 180]
        if any(abs(a[1]) != 90 or a[1] != b[1] for a, b in long):  # a pole has every longitude
            found.append("section 3.1.9: an edge crosses the antimeridian")
        if any(a == b for a, b in pairwise(line)):
            found.append("a position is repeated")
    shape = shapely.geometry.shape(json.loads(json.dumps(geometry, default=float)))
    if not shape.is_valid:
        found.append(f"not valid: {shapely.is_valid_reason(shape)}")
    return found


def _flat(coordinates, depth):
    if depth == 0:
        yield coordinates
        return
    for inner in coordinates:
        yield from _flat(inner, depth - 1)


def _of_position(position):
    if len(position) != 2:
        return [f"section 3.1.1: a position of {len(position)} numbers"]
    found = []
    for value, limit, name in zip(position, (180, 90), ("longitude", "latitude"), strict=True):
        if not -limit <= value <= limit:
            found.append(f"section 4: {name} {value}")
        digits = -Decimal(value).as_tuple().exponent
        if digits > MAX_DECIMALS:
            found.append(f"section 11.2: {digits} decimals in {value}")
    return found


def _of_ring(ring, is_shell):
    found = []
    if len(ring) < 4:
        found.append(f"section 3.1.6: a ring of {len(ring)} positions")
    if ring[0] != ring[-1]:
        found.append("section 3.1.6: a ring is not closed")
    turns = sum(
        Fraction(a[0]) * Fraction(b[1]) - Fraction(b[0]) * Fraction(a[1]) for a, b in pairwise(ring)
    )
    if (turns > 0) != is_shell:
        found.append(f"section 3.1.6: a {'shell' if is_shell else 'hole'} on the wrong hand")
    return found
