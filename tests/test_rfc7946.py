"""The checker must find what it is there to find."""

import json

import pytest

from tests.rfc7946 import problems

SQUARE = [[10, 50], [11, 50], [11, 51], [10, 51], [10, 50]]


def collection(coordinates, kind="Polygon", **members):
    feature = {
        "type": "Feature",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": {},
    }
    return json.dumps({"type": "FeatureCollection", "features": [feature], **members})


def test_a_good_text_has_no_problems():
    hole = [[10.2, 50.2], [10.2, 50.4], [10.4, 50.4], [10.4, 50.2], [10.2, 50.2]]
    assert problems(collection([SQUARE, hole])) == []
    assert problems('{"type":"FeatureCollection","features":[]}') == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "not JSON"),
        ('{"type":"Feature"}', "not FeatureCollection"),
        (collection([SQUARE], crs={"type": "name"}), "crs"),
        (collection([SQUARE[::-1]]), "shell on the wrong hand"),
        (collection([SQUARE, SQUARE]), "hole on the wrong hand"),
        (collection([SQUARE[:-1]]), "not closed"),
        (collection([[[10.12345678, 50], *SQUARE[1:]]]), "8 decimals"),
        (collection([[[181, 50], *SQUARE[1:]]]), "longitude 181"),
        (collection([[[10, 50, 3], *SQUARE[1:]]]), "3 numbers"),
        (collection([[[10, 50], [11, 51], [11, 50], [10, 51], [10, 50]]]), "not valid"),
        (collection([[179, 0], [-179, 0]], "LineString"), "antimeridian"),
        (collection([[1, 0], [1, 0], [2, 0]], "LineString"), "repeated"),
        (collection([], "Polygon"), "no coordinates"),
        (collection([SQUARE]).replace("10", "NaN", 1), "not JSON"),
    ],
)
def test_each_fault_is_found(text, problem):
    assert any(problem in found for found in problems(text))
