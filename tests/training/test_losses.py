"""Losses against their formulas, written out pixel by pixel."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tilingseg.errors import TrainingError
from tilingseg.training.losses import UNKNOWN, LossOptions, known_weights, segmentation_loss

KINDS = ("bce", "bce_dice", "focal", "tversky", "ce", "ce_dice")


def make_batch(seed, *, softmax=False, n_classes=2):
    generator = torch.Generator().manual_seed(seed)
    shape = (3, n_classes, 4, 5)
    labels = torch.randint(0, 3, shape, generator=generator, dtype=torch.uint8)
    labels[labels == 2] = UNKNOWN
    outputs = n_classes + softmax
    logits = torch.randn((3, outputs, 4, 5), generator=generator) * 2
    return logits, labels


def known_pixels(logits, labels):
    """Yield class, probability and label of every known pixel, as Python floats."""
    for index in zip(*torch.nonzero(labels != UNKNOWN, as_tuple=True), strict=True):
        probability = 1 / (1 + math.exp(-logits[index].item()))
        yield int(index[1]), probability, int(labels[index])


def direct_bce(logits, labels, weights):
    total = norm = 0.0
    for of_class, p, label in known_pixels(logits, labels):
        total -= weights[of_class] * math.log(p if label else 1 - p)
        norm += weights[of_class]
    return total / norm


def direct_overlap(pixels, alpha, beta, weights):
    parts = []
    for of_class in range(len(weights)):
        mine = [(p, t) for k, p, t in pixels if k == of_class]
        hit = sum(p * t for p, t in mine)
        false = sum(p * (1 - t) for p, t in mine)
        missed = sum((1 - p) * t for p, t in mine)
        parts.append(1 - (hit + 1) / (hit + alpha * false + beta * missed + 1) if mine else 0.0)
    return sum(w * part for w, part in zip(weights, parts, strict=True)) / sum(weights)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 3.0)])
@pytest.mark.parametrize("seed", [0, 1])
def test_binary_losses_are_their_formulas(seed, weights):
    logits, labels = make_batch(seed)
    pixels = list(known_pixels(logits, labels))

    def loss(**options):
        return segmentation_loss(
            logits, labels, LossOptions(class_weights=weights, **options)
        ).item()

    entropy = direct_bce(logits, labels, weights)
    dice = direct_overlap(pixels, 0.5, 0.5, weights)
    assert loss(kind="bce") == pytest.approx(entropy, rel=1e-5)
    mixed = loss(kind="bce_dice", dice_share=0.3)
    assert mixed == pytest.approx(0.7 * entropy + 0.3 * dice, rel=1e-5)
    tversky = direct_overlap(pixels, 0.2, 0.8, weights)
    measured = loss(kind="tversky", tversky_alpha=0.2, tversky_beta=0.8)
    assert measured == pytest.approx(tversky, rel=1e-5)
    focal = norm = 0.0
    for of_class, p, label in pixels:
        right = p if label else 1 - p
        focal -= weights[of_class] * (1 - right) ** 1.5 * math.log(right)
        norm += weights[of_class]
    assert loss(kind="focal", focal_gamma=1.5) == pytest.approx(focal / norm, rel=1e-5)


def test_softmax_losses_are_their_formulas():
    logits, labels = make_batch(4, softmax=True)
    weights = (2.0, 0.5)
    total = norm = 0.0
    for image in range(3):
        for row in range(4):
            for col in range(5):
                label = labels[image, :, row, col].tolist()
                if UNKNOWN in label:
                    continue
                chosen = 1 + label.index(1) if 1 in label else 0
                scores = [math.exp(v) for v in logits[image, :, row, col].tolist()]
                weight = (1.0, *weights)[chosen]
                total -= weight * math.log(scores[chosen] / sum(scores))
                norm += weight
    options = LossOptions(kind="ce", class_weights=weights)
    entropy = segmentation_loss(logits, labels, options).item()
    assert entropy == pytest.approx(total / norm, rel=1e-5)
    shares = logits.softmax(dim=1)[:, 1:].logit()
    dice = direct_overlap(list(known_pixels(shares, labels)), 0.5, 0.5, weights)
    options = LossOptions(kind="ce_dice", dice_share=0.25, class_weights=weights)
    mixed = segmentation_loss(logits, labels, options).item()
    assert mixed == pytest.approx(0.75 * entropy + 0.25 * dice, rel=1e-4)


@settings(max_examples=30)
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 1000), shift=st.floats(-50, 50))
def test_what_is_unknown_changes_neither_loss_nor_gradient(kind, seed, shift):
    softmax = kind.startswith("ce")
    logits, labels = make_batch(seed, softmax=softmax)
    silent = labels == UNKNOWN
    if softmax:  # one softmax needs all classes of a pixel
        silent = silent.any(dim=1, keepdim=True).expand(-1, 3, -1, -1)
        labels = torch.where(silent[:, 1:], UNKNOWN, labels)
    moved = torch.where(silent, logits + shift, logits)
    losses, gradients = [], []
    for values in (logits, moved):
        values = values.clone().requires_grad_()
        loss = segmentation_loss(values, labels, LossOptions(kind=kind))
        loss.backward()
        losses.append(loss.item())
        gradients.append(values.grad)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-7)
    assert (gradients[0][silent] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_known_is_no_loss(kind):
    logits, labels = make_batch(0, softmax=kind.startswith("ce"))
    logits.requires_grad_()
    loss = segmentation_loss(logits, torch.full_like(labels, UNKNOWN), LossOptions(kind=kind))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_right_answers_cost_less_than_wrong_ones(kind):
    _, labels = make_batch(2)
    labels[:, 1][labels[:, 0] == 1] = 0  # classes exclude each other in a softmax
    sure = (labels == 1).float() * 20 - 10
    wrong = -sure
    if kind.startswith("ce"):
        sure, wrong = (torch.cat((torch.zeros(3, 1, 4, 5), x), dim=1) for x in (sure, wrong))
    options = LossOptions(kind=kind)
    right = segmentation_loss(sure, labels, options).item()
    assert 0 <= right < 0.02
    assert segmentation_loss(wrong, labels, options).item() > 0.2


def test_bfloat16_logits_are_computed_in_float32():
    logits, labels = make_batch(3)
    assert segmentation_loss(logits.bfloat16(), labels, LossOptions()).dtype == torch.float32


def test_outputs_and_weights_must_fit_the_classes():
    logits, labels = make_batch(0)
    with pytest.raises(TrainingError, match="'ce' needs 3 outputs for 2 classes.*has 2"):
        segmentation_loss(logits, labels, LossOptions(kind="ce"))
    with pytest.raises(TrainingError, match="1 class weights do not fit 2"):
        segmentation_loss(logits, labels, LossOptions(class_weights=(1.0,)))


@pytest.mark.parametrize("kind", ["bce", "focal", "ce"])
def test_borders_weigh_their_pixels(kind):
    softmax = kind == "ce"
    logits, labels = make_batch(3, softmax=softmax)
    labels[labels == UNKNOWN] = 0
    borders = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1))
    borders = borders * (labels == 0)
    options = LossOptions(kind=kind, border_weight=10.0, focal_gamma=0.0)
    total = norm = 0.0
    for image, row, col in itertools.product(range(3), range(4), range(5)):
        label = labels[image, :, row, col].tolist()
        near = borders[image, :, row, col].tolist()
        scores = logits[image, :, row, col].tolist()
        if softmax:
            chosen = 1 + label.index(1) if 1 in label else 0
            shares = [math.exp(v) for v in scores]
            terms = [(1 + 10 * max(near), shares[chosen] / sum(shares))]
        else:
            p = [1 / (1 + math.exp(-v)) for v in scores]
            terms = [
                (1 + 10 * n, q if t else 1 - q) for n, q, t in zip(near, p, label, strict=True)
            ]
        for weight, right in terms:
            total -= weight * math.log(right)
            norm += weight
    loss = segmentation_loss(logits, labels, options, borders).item()
    assert loss == pytest.approx(total / norm, rel=1e-5)


@pytest.mark.parametrize("kind", ["bce", "focal", "ce"])
def test_parts_of_a_batch_add_up_to_it(kind):
    logits, labels = make_batch(7, softmax=kind == "ce")
    labels[0] = UNKNOWN
    labels[0, :, 1, 2] = 1  # hardly anything is known of the first part
    options = LossOptions(kind=kind, class_weights=(2.0, 0.5), border_weight=3.0)
    borders = torch.rand(labels.shape, generator=torch.Generator().manual_seed(3))
    whole = segmentation_loss(logits, labels, options, borders)
    parts = [(logits[k], labels[k], borders[k]) for k in (slice(1), slice(1, 3))]
    said = [known_weights(of, options, near) for _, of, near in parts]
    added = [
        segmentation_loss(x, of, options, near, mine / sum(said))
        for (x, of, near), mine in zip(parts, said, strict=True)
    ]
    assert sum(added).item() == pytest.approx(whole.item(), rel=1e-5)


def test_overlaps_of_parts_weigh_by_what_is_known_of_their_class():
    logits, labels = make_batch(8)
    labels[0, 1] = UNKNOWN
    options = LossOptions(kind="tversky")
    parts = [(logits[k], labels[k]) for k in (slice(1), slice(1, 3))]
    said = [known_weights(of, options) for _, of in parts]
    added = [
        segmentation_loss(x, of, options, shares=mine / sum(said))
        for (x, of), mine in zip(parts, said, strict=True)
    ]
    expected = 0.0
    for x, of in parts:
        for k in (0, 1):
            mine = of.clone()
            mine[:, 1 - k] = UNKNOWN
            share = (of[:, k] != UNKNOWN).sum() / (labels[:, k] != UNKNOWN).sum()
            expected += share * segmentation_loss(x, mine, options)
    assert sum(added).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_values(kind):
    logits, labels = make_batch(5, softmax=kind.startswith("ce"))
    options = LossOptions(kind=kind, class_weights=(2.0, 0.5), border_weight=3.0)
    borders = torch.rand(labels.shape, generator=torch.Generator().manual_seed(2)).double()
    logits = logits.double().requires_grad_()
    # The loss itself computes in float32, so that steps must be large and the limits wide.
    torch.autograd.gradcheck(
        lambda x: segmentation_loss(x, labels, options, borders.float()).double(),
        logits,
        eps=1e-2,
        atol=2e-4,
        rtol=2e-2,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"border_weight": -1.0}, "loss: border_weight is -1.0, must be at least 0"),
        ({"border_sigma_px": 0.0}, "loss: border_sigma_px is 0.0, must be above 0"),
        ({"class_weights": (1.0, 0.0)}, "loss: class_weights is 1.0, 0.0, must be above 0"),
        ({"dice_share": 1.5}, "loss: dice_share is 1.5, must be 0 to 1"),
        ({"focal_gamma": math.nan}, "loss: focal_gamma is nan, must be at least 0"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(options, message):
    with pytest.raises(TrainingError, match=message):
        LossOptions(**options)
