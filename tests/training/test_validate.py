"""Scores against counting by hand, tiles against the whole."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tilingseg.model.halo import network_geometry
from tilingseg.model.load import build_network
from tilingseg.model.normalize import normalize
from tilingseg.model.spec import ModelSpec
from tilingseg.records import Scaling
from tilingseg.training import validate as module_under_test
from tilingseg.training.losses import UNKNOWN
from tilingseg.training.recipe import ClassLabel, SourceRecipe
from tilingseg.training.samples import unit_scaling
from tilingseg.training.sources import LabelledRaster
from tilingseg.training.validate import (
    Score,
    best_thresholds,
    other_notes,
    score_notes,
    validate,
)


def make_spec(activation="sigmoid", gsd_m=1.0):
    return ModelSpec(
        name="v",
        network="unet",
        network_options=(("features", (4, 6)),),
        bands=("red", "green"),
        classes=("building", "road"),
        thresholds=(0.5, 0.5),
        gsd_m=gsd_m,
        mean=(0.5, 0.4),
        std=(0.3, 0.2),
        activation=activation,
    )


def make_raster(name, shape, seed, gsd_m=1.0):
    rng = np.random.default_rng(seed)
    labels = rng.choice(np.array([0, 1, UNKNOWN], np.uint8), size=(2, *shape))
    source = SourceRecipe(
        name=name,
        split="validation",
        rasters="*",
        mask="*",
        classes=(ClassLabel(name="building", values=(1,)),),
        licence="CC0",
    )
    return LabelledRaster(
        source=source,
        name=name,
        pixels=rng.integers(0, 256, (2, *shape), dtype=np.uint8),
        valid=rng.random(shape) < 0.9,
        labels=labels,
        gsd_m=gsd_m,
        scaling=Scaling(low=(0.0, 0.0), high=(255.0, 255.0), source="test"),
        anchors=(),
    )


def make_network(spec):
    torch.manual_seed(0)
    network = build_network(spec).eval()
    with torch.no_grad():
        network.head.weight.mul_(3)
        network.head.bias.zero_()
    return network


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_scores_are_those_of_the_whole_raster_counted_by_hand(monkeypatch, activation):
    monkeypatch.setattr(module_under_test, "_TILE_PX", 64)  # several tiles
    spec = make_spec(activation)
    network = make_network(spec)
    rasters = (make_raster("a", (150, 133), 0), make_raster("a", (70, 81), 1))
    scores = validate(network, network_geometry(network, 2), spec, rasters)
    for index, class_name in enumerate(spec.classes):
        hit, union = 0, 0
        for raster in rasters:
            pixels = torch.from_numpy(raster.pixels / np.float32(255)).unsqueeze(0)
            valid = torch.from_numpy(raster.valid).unsqueeze(0)
            with torch.inference_mode():
                logits = network(normalize(pixels, valid, unit_scaling(2), spec))[0]
            shown = logits.sigmoid() if activation == "sigmoid" else logits.softmax(0)[1:]
            found = np.round(shown[index].numpy() * 255) >= 77
            known, truth = raster.labels[index] != UNKNOWN, raster.labels[index] == 1
            hit += (found & truth).sum()
            union += ((found & known) | truth).sum()
        (score,) = [s for s in scores if s.class_name == class_name]
        assert score.iou_at(77 / 255) == pytest.approx(hit / union, abs=2e-4)
        assert 0.01 < hit / union < 0.99


def test_sources_are_scored_apart_and_unlabelled_classes_not_at_all():
    spec = make_spec()
    network = make_network(spec)
    only = make_raster("b", (40, 40), 2)
    only.labels[1] = UNKNOWN
    rasters = (make_raster("a", (40, 40), 1), only)
    scores = validate(network, network_geometry(network, 2), spec, rasters)
    named = {(score.source, score.class_name) for score in scores}
    assert named == {("a", "building"), ("a", "road"), ("b", "building")}


def test_coarse_rasters_are_measured_at_the_gsd_of_the_model():
    spec = make_spec(gsd_m=0.5)
    network = make_network(spec)
    raster = make_raster("a", (30, 40), 1, gsd_m=1.0)
    score = validate(network, network_geometry(network, 2), spec, (raster,))[0]
    known = (raster.labels[0] != UNKNOWN).sum()
    assert score.positive.sum() + score.negative.sum() == 4 * known


class Identity(torch.nn.Module):
    """Gives its first band back as the logits of two classes."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return x[:, :1].expand(-1, 2, -1, -1)


def test_pixels_beside_nodata_are_measured_as_bright_as_others():
    raster = make_raster("a", (30, 40), 1)
    raster.valid[:] = True
    raster.valid[:, :20] = False
    raster.pixels[:] = 200
    raster.labels[:] = np.where(raster.valid, 1, UNKNOWN)
    raster = dataclasses.replace(raster, gsd_m=2.0)
    geometry = network_geometry(make_network(make_spec()), 2)
    score = validate(Identity(), geometry, make_spec(), (raster,))[0]
    assert np.flatnonzero(score.positive).size == 1  # all have the one probability


def make_score(source, positive, negative):
    counts = [np.zeros(256, np.int64), np.zeros(256, np.int64)]
    for array, values in zip(counts, (positive, negative), strict=True):
        for bin_index, count in values.items():
            array[bin_index] = count
    return Score(source=source, class_name="road", positive=counts[0], negative=counts[1])


def test_iou_counts_hits_over_the_union():
    score = make_score("a", {200: 6, 100: 2}, {150: 3, 10: 50})
    assert score.iou_at(180 / 255) == pytest.approx(6 / 8)
    assert score.iou_at(120 / 255) == pytest.approx(6 / 11)
    assert score.iou_at(50 / 255) == pytest.approx(8 / 11)


def test_the_threshold_is_best_for_the_mean_of_the_sources():
    small = make_score("small", {90: 10}, {20: 10})
    large = make_score("large", {200: 10_000}, {80: 10_000})
    (threshold,) = best_thresholds((small, large), ("road",))
    assert 80 / 255 < threshold <= 90 / 255 + 1e-3
    assert best_thresholds((), ("road",)) == (pytest.approx(0.5, abs=0.01),)
    # everything is the class: the outermost bins are still no thresholds
    (threshold,) = best_thresholds((make_score("all", {0: 5}, {}),), ("road",))
    assert 0 < threshold < 1


def test_the_threshold_lies_in_the_middle_of_what_is_equally_good():
    (threshold,) = best_thresholds((make_score("a", {240: 100}, {4: 1000}),), ("road",))
    assert threshold == pytest.approx((5 + 240) / 2 / 255, abs=0.003)


def test_a_class_that_is_never_found_has_half_as_threshold_and_a_note():
    score = make_score("town", {0: 100}, {0: 9000, 3: 1})
    assert best_thresholds((score,), ("road",)) == (pytest.approx(0.5, abs=0.01),)
    notes = score_notes((score,), {"road": 0.5})
    assert notes == ("IoU of road on held-out town: 0.000, found at no threshold",)
    assert other_notes((*notes, "Misses what is dark.")) == ("Misses what is dark.",)
