"""What training minimises, where labels say something and nowhere else.

Labels are per class: 1 the class, 0 not the class, `UNKNOWN` no statement. A source that labels
roads alone says nothing about buildings, and counting its houses as background teaches the network
to miss them. So every loss takes the mask of known labels and leaves the rest out of sums and of
counts.

Cross-entropies average over known pixels of all classes. Overlap losses (Dice, Tversky) are
computed for each class over the whole batch: for a rare class a single window often holds no
positive pixel, and its overlap would be undefined or noise.

A step may consist of several batches, of which one may be labelled whole and another hardly at all.
`known_weights` says how much each of them has to say; its share of that turns its mean into its
part of the mean over the step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tilingseg.errors import TrainingError
from tilingseg.training.limits import refuse_outside

UNKNOWN = 255
"""Label of a pixel about which nothing is said, for one class."""

LossKind = Literal["bce", "bce_dice", "focal", "tversky", "ce", "ce_dice"]
_SOFTMAX = ("ce", "ce_dice")


@dataclass(frozen=True, slots=True, kw_only=True)
class LossOptions:
    """Which loss, with its constants."""

    kind: LossKind = "bce_dice"
    """`bce`, `bce_dice`, `focal`, `tversky` for sigmoid; `ce`, `ce_dice` for softmax."""
    dice_share: float = 0.5
    """Weight of Dice in the mixed losses, 0…1; the cross-entropy has the rest."""
    focal_gamma: float = 2.0
    """How strongly pixels that are already right are weighed down."""
    tversky_alpha: float = 0.3
    """Weight of false positives."""
    tversky_beta: float = 0.7
    """Weight of false negatives."""
    class_weights: tuple[float, ...] = ()
    """Weight of each class; empty: all 1."""
    border_weight: float = 0.0
    """Extra weight of the background between two objects that touch, in the cross-entropies and the
    focal loss; the original U-Net has 10. 0: none."""
    border_sigma_px: float = 5.0
    """How fast that fades with the distance of the objects, px at the model's GSD."""

    def __post_init__(self) -> None:
        """Refuse weights that mean nothing.

        Raises:
            TrainingError: naming the key, its value and what it must be.
        """
        refuse_outside(
            "loss",
            self,
            positive=("border_sigma_px", "class_weights"),
            not_negative=("focal_gamma", "tversky_alpha", "tversky_beta", "border_weight"),
            shares=("dice_share",),
        )


def known_weights(labels: Tensor, options: LossOptions, borders: Tensor | None = None) -> Tensor:
    """Return how much the labels of a batch have to say.

    Args:
        labels: as for `segmentation_loss`.
        options: kind and constants.
        borders: as for `segmentation_loss`.

    Returns:
        float32 (1 + classes,): the weights of all known labels, as cross-entropies and the focal
        loss count them; then the known labels of each class, as overlap losses do.
    """
    by_class, extra = _weights(labels, options, borders)
    known = labels != UNKNOWN
    if options.kind in _SOFTMAX:
        each = _softmax_weights(_outputs(labels == 1), known, by_class, extra)
    else:
        each = known * (by_class.view(1, -1, 1, 1) * extra)
    return torch.cat((each.sum().view(1), known.sum(dim=(0, 2, 3)).float()))


def segmentation_loss(
    logits: Tensor,
    labels: Tensor,
    options: LossOptions,
    borders: Tensor | None = None,
    shares: Tensor | None = None,
) -> Tensor:
    """Compute the loss of one batch.

    Args:
        logits: float (n, outputs, height, width); for `ce` kinds the background comes first.
        labels: uint8 (n, classes, height, width): 0, 1 or `UNKNOWN`.
        options: kind and constants.
        borders: float32, as `labels`, 0…1: how near two objects are; None: nowhere.
        shares: float32 (1 + classes,): what `known_weights` says of this batch, as a share of all
            batches of the step; None: it is the only one.

    Returns:
        float32 scalar; 0 with a gradient of 0 when nothing is known.

    Raises:
        TrainingError: the number of outputs does not fit the labels, or of weights the classes.
    """
    logits = logits.float()
    n_classes, softmax = labels.shape[1], options.kind in _SOFTMAX
    if logits.shape[1] != n_classes + softmax:
        raise TrainingError(
            f"loss {options.kind!r} needs {n_classes + softmax} outputs for {n_classes} classes, "
            f"the network has {logits.shape[1]}"
        )
    by_class, extra = _weights(labels, options, borders)
    shares = logits.new_ones(1 + n_classes) if shares is None else shares
    known = labels != UNKNOWN
    target = (labels == 1).float()
    if options.kind == "tversky":
        alpha, beta = options.tversky_alpha, options.tversky_beta
        overlap = tversky(logits.sigmoid(), target, known, alpha=alpha, beta=beta)
        return (overlap * by_class * shares[1:]).sum() / by_class.sum()
    if softmax:
        entropy = cross_entropy(logits, target, known, weights=by_class, extra=extra)
    else:
        weights = by_class.view(1, -1, 1, 1) * extra
        if options.kind == "focal":
            entropy = focal(logits, target, known, weights=weights, gamma=options.focal_gamma)
        else:
            entropy = binary_cross_entropy(logits, target, known, weights=weights)
    entropy = entropy * shares[0]
    if options.kind in ("bce", "ce", "focal"):
        return entropy
    probability = logits.softmax(dim=1)[:, 1:] if softmax else logits.sigmoid()
    overlap = dice(probability, target, known)
    overlap = (overlap * by_class * shares[1:]).sum() / by_class.sum()
    return (1 - options.dice_share) * entropy + options.dice_share * overlap


def binary_cross_entropy(
    logits: Tensor, target: Tensor, known: Tensor, *, weights: Tensor
) -> Tensor:
    """Mean of -log p(label) over known labels, each class by its weight.

    Args:
        logits: float32 (n, classes, height, width).
        target: float32, same shape, 0 or 1.
        known: bool, same shape.
        weights: float32, of a shape that fits `logits`.
    """
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return _weighted_mean(loss, known, weights)


def focal(
    logits: Tensor, target: Tensor, known: Tensor, *, weights: Tensor, gamma: float
) -> Tensor:
    """Binary cross-entropy times (1 - p(label))^gamma: Lin et al. 2017.

    Args:
        logits: float32 (n, classes, height, width).
        target: float32, same shape, 0 or 1.
        known: bool, same shape.
        weights: float32, of a shape that fits `logits`.
        gamma: at least 0; 0 is the cross-entropy.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return _weighted_mean(entropy * (1 - torch.exp(-entropy)) ** gamma, known, weights)


def cross_entropy(
    logits: Tensor, target: Tensor, known: Tensor, *, weights: Tensor, extra: Tensor
) -> Tensor:
    """Softmax cross-entropy over background and classes, where all classes are known.

    Args:
        logits: float32 (n, 1 + classes, height, width).
        target: float32 (n, classes, height, width), 0 or 1; the first class that is 1 counts.
        known: bool, as `target`.
        weights: float32 (classes,); the background weighs 1.
        extra: float32, fits (n, height, width): multiplies the weight of a pixel.
    """
    index = _outputs(target)
    each = _softmax_weights(index, known, weights, extra)
    loss = F.cross_entropy(logits, index, reduction="none")
    return (loss * each).sum() / each.sum().clamp(min=1e-6)


def dice(probability: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """1 - 2·Σpt / (Σp + Σt) for each class over the batch: Milletari et al. 2016.

    Args:
        probability: float32 (n, classes, height, width) in 0…1.
        target: float32, same shape, 0 or 1.
        known: bool, same shape.

    Returns:
        float32 (classes,); 0 for a class of which nothing is known.
    """
    return tversky(probability, target, known, alpha=0.5, beta=0.5)


def tversky(
    probability: Tensor, target: Tensor, known: Tensor, *, alpha: float, beta: float
) -> Tensor:
    """1 - TP / (TP + alpha·FP + beta·FN) for each class over the batch: Salehi et al. 2017.

    Args:
        probability: float32 (n, classes, height, width) in 0…1.
        target: float32, same shape, 0 or 1.
        known: bool, same shape.
        alpha: weight of false positives.
        beta: weight of false negatives.

    Returns:
        float32 (classes,); 0 for a class of which nothing is known.
    """
    axes = (0, 2, 3)
    hit = (probability * target * known).sum(axes)
    false = (probability * (1 - target) * known).sum(axes)
    missed = ((1 - probability) * target * known).sum(axes)
    # One pixel of smoothing keeps a class without a positive pixel from dividing by nothing.
    overlap = (hit + 1) / (hit + alpha * false + beta * missed + 1)
    return (1 - overlap) * known.any(dim=(3)).any(dim=2).any(dim=0)


def _weights(labels: Tensor, options: LossOptions, borders: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the weights of classes, and of pixels, which softmax has once for all classes."""
    n_classes = labels.shape[1]
    if options.class_weights and len(options.class_weights) != n_classes:
        raise TrainingError(
            f"{len(options.class_weights)} class weights do not fit {n_classes} classes"
        )
    by_class = torch.tensor(options.class_weights or (1.0,) * n_classes, device=labels.device)
    if borders is None:
        return by_class, by_class.new_ones(1)
    extra = 1 + options.border_weight * borders
    return by_class, extra.amax(dim=1) if options.kind in _SOFTMAX else extra


def _outputs(target: Tensor) -> Tensor:
    """Return which output of a softmax is right, int64 (n, height, width)."""
    return torch.where(target.any(dim=1), target.float().argmax(dim=1) + 1, 0)


def _softmax_weights(index: Tensor, known: Tensor, weights: Tensor, extra: Tensor) -> Tensor:
    return torch.cat((weights.new_ones(1), weights))[index] * known.all(dim=1) * extra


def _weighted_mean(loss: Tensor, known: Tensor, weights: Tensor) -> Tensor:
    each = known * weights
    return (loss * each).sum() / each.sum().clamp(min=1e-6)
