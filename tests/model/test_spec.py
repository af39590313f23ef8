"""A spec travels as JSON and comes back the same, or is refused with the reason."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilingseg.errors import ModelError
from tilingseg.model.spec import ModelSpec

GOOD = ModelSpec(
    name="m",
    network="unet",
    network_options=(("features", (8, 16)), ("fold_px", 2)),
    bands=("red", "green", "blue"),
    classes=("building", "road"),
    thresholds=(0.4, 0.55),
    gsd_m=0.5,
    mean=(0.4, 0.4, 0.3),
    std=(0.2, 0.2, 0.2),
)

unit = st.floats(0.01, 0.99)
names = st.text(min_size=1, max_size=8)


@st.composite
def specs(draw):
    n_bands, n_classes = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    return ModelSpec(
        name=draw(st.text()),
        network=draw(names),
        network_options=tuple(
            sorted(draw(st.dictionaries(names, st.integers() | st.booleans() | st.text())).items())
        ),
        bands=tuple(draw(st.lists(names, min_size=n_bands, max_size=n_bands))),
        classes=tuple(draw(st.lists(names, min_size=n_classes, max_size=n_classes, unique=True))),
        thresholds=tuple(draw(st.lists(unit, min_size=n_classes, max_size=n_classes))),
        gsd_m=draw(st.none() | st.floats(0.01, 100)),
        mean=tuple(draw(st.lists(unit, min_size=n_bands, max_size=n_bands))),
        std=tuple(draw(st.lists(unit, min_size=n_bands, max_size=n_bands))),
        activation=draw(st.sampled_from(["sigmoid", "softmax"])),
        value_range=draw(st.none() | st.tuples(unit, unit).filter(lambda ends: ends[0] < ends[1])),
        sources=tuple(draw(st.lists(st.text(), max_size=3))),
        splits=tuple(
            draw(
                st.lists(
                    st.tuples(st.text(), st.text(), st.integers(), st.text(), st.text()), max_size=3
                )
            )
        ),
        not_for=tuple(draw(st.lists(st.text(), max_size=3))),
    )


@given(specs())
def test_json_brings_a_spec_back(spec):
    again = ModelSpec.from_json(spec.to_json())
    assert again == spec
    assert hash(again) == hash(spec)


def test_softmax_has_one_output_more_than_classes():
    assert GOOD.n_outputs == 2
    assert dataclasses.replace(GOOD, activation="softmax").n_outputs == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bands": (), "mean": (), "std": ()}, "at least one band"),
        ({"classes": (), "thresholds": ()}, "one class"),
        ({"classes": ("road", "road")}, "repeat: road, road"),
        ({"classes": tuple(map(str, range(255))), "thresholds": (0.5,) * 255}, "255 classes"),
        ({"mean": (0.5,)}, "each of the 3 bands"),
        ({"std": (0.2, 0.0, 0.2)}, "std must be above 0"),
        ({"thresholds": (0.5,)}, "each of the 2 classes"),
        ({"thresholds": (0.5, 1.0)}, "between 0 and 1"),
        ({"activation": "relu"}, "'relu'"),
        ({"gsd_m": 0.0}, "gsd_m must be above 0 and finite, got 0.0"),
        ({"gsd_m": float("nan")}, "gsd_m must be above 0 and finite, got nan"),
        ({"gsd_m": float("inf")}, "gsd_m must be above 0 and finite, got inf"),
        ({"mean": (0.4, float("nan"), 0.4)}, "mean must be finite"),
        ({"std": (0.2, float("inf"), 0.2)}, "std must be above 0 and finite"),
        ({"value_range": (5.0, 5.0)}, r"two rising numbers, got \(5.0, 5.0\)"),
        ({"tile_size_px": 0}, "tile_size_px must be above 0, got 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
def test_contradictions_are_refused(changes, message):
    with pytest.raises(ModelError, match=message):
        dataclasses.replace(GOOD, **changes)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda raw: raw.pop("mean"), "lacks: mean"),
        (lambda raw: raw.update(colour=1), "unknown keys: colour"),
        (lambda raw: raw.update(thresholds=0.5), "wrong type"),
        (lambda raw: raw.update(std=["a", "b", "c"]), "wrong type"),
        (lambda raw: raw.update(gsd_m="half"), "wrong type"),
    ],
    ids=["missing", "unknown", "scalar", "text in numbers", "text for a number"],
)
def test_json_of_another_shape_is_refused(edit, message):
    raw = json.loads(GOOD.to_json())
    edit(raw)
    with pytest.raises(ModelError, match=message):
        ModelSpec.from_json(json.dumps(raw))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("gsd_m", "half", "'half' where a finite number"),
        ("mean", [0.5, float("nan"), 1], "nan where a finite number"),
        ("mean", ["0.5"] * 3, "'0.5' where a finite number"),
        ("network_options", ["features"], "'features' where tuple"),
        ("network_options", [1], "1 where tuple"),
        ("value_range", [1], r"\[1\] where tuple.float, float. is"),
        ("tile_size_px", "512", "'512' where a whole number"),
        ("tile_size_px", True, "True where a whole number"),
        ("classes", "ab", "'ab' where tuple"),
        ("bands", [1, 2, 3], "1 where text"),
        ("notes", 5, "5 where tuple"),
        ("splits", [[1]], r"\[1\] where tuple"),
        ("activation_ranges", [["x", 1]], r"\['x', 1\] where tuple"),
        ("activation", 5, "5 where "),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(key, value, message):
    raw = json.loads(GOOD.to_json()) | {key: value}
    with pytest.raises(ModelError, match=f"wrong type: {key} holds {message}"):
        ModelSpec.from_json(json.dumps(raw))


def test_numbers_may_be_whole_and_values_absent():
    raw = json.loads(GOOD.to_json()) | {"gsd_m": None, "mean": [0, 0, 1], "value_range": [0, 1000]}
    spec = ModelSpec.from_json(json.dumps(raw))
    assert (spec.gsd_m, spec.mean, spec.value_range) == (None, (0, 0, 1), (0, 1000))


@pytest.mark.parametrize("text", ["", "[]", "3", "{", "null"], ids=repr)
def test_text_that_is_no_object_is_refused(text):
    with pytest.raises(ModelError, match="not JSON|not a JSON object"):
        ModelSpec.from_json(text)
