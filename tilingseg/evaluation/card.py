"""The scores as a table, and the model card: what a model is, was made from, does and cannot do.

The card follows Mitchell et al. 2019, *Model Cards for Model Reporting*, in Markdown. What a model
was made from and what it must not be used for comes from its file; what it was measured on comes
from the recipe of the evaluation, which need not be the one that it was trained by.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilingseg.evaluation.scores import RegionScore, mean_iou
from tilingseg.training.validate import other_notes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tilingseg.evaluation.evaluation import Evaluation
    from tilingseg.model.load import LoadedModel
    from tilingseg.model.spec import ModelSpec, Split

_COLUMNS = (
    ("class", lambda s: s.class_name),
    ("region", lambda s: s.region),
    ("IoU", lambda s: _text(s.iou)),
    ("95 %", lambda s: "–" if s.iou_low is None else f"{s.iou_low:.2f}–{s.iou_high:.2f}"),
    ("F1", lambda s: _text(s.f1)),
    ("precision", lambda s: _text(s.precision)),
    ("recall", lambda s: _text(s.recall)),
    ("pixel error", lambda s: _text(s.pixel_error)),
    ("boundary IoU", lambda s: _text(s.boundary_iou)),
    ("instance F1", lambda s: _text(s.instance_f1)),
    ("complete / correct", lambda s: _pair(s)),
    ("calibration error", lambda s: _text(s.calibration_error)),
    ("rasters", lambda s: str(s.n_rasters)),
    ("windows", lambda s: str(s.n_windows)),
)


def score_table(scores: Sequence[RegionScore]) -> str:
    """Return the scores as a Markdown table, with the mean IoU of each class below."""
    rows = [[text(score) for _, text in _COLUMNS] for score in scores]
    for name in dict.fromkeys(score.class_name for score in scores):
        if sum(score.class_name == name for score in scores) > 1:
            mean = [name, "mean of the regions", _text(mean_iou(scores, name))]
            rows.append(mean + [""] * (len(_COLUMNS) - 3))
    return _table([name for name, _ in _COLUMNS], rows)


def model_card(result: Evaluation, model: LoadedModel, pictures: Iterable[str]) -> str:
    """Return the card of a model as Markdown.

    Args:
        result: what was measured.
        model: the model itself.
        pictures: names of pictures beside the card.
    """
    spec = model.spec
    n_weights = sum(parameter.numel() for parameter in model.module.parameters())
    size = "any pixel size" if spec.gsd_m is None else f"{spec.gsd_m:g} m a pixel"
    limits = ", ".join(f"{name} {value:g}" for name, value in result.thresholds)
    runs = "whole runs averaged over eight orientations" if result.tta else "whole runs"
    lines = [
        f"# Model card: {spec.name}",
        "",
        f"Finds {' and '.join(spec.classes)} in {', '.join(spec.bands)} at {size}. "
        f"Network `{spec.network}` with {n_weights / 1e6:.2f} million weights; "
        f"thresholds: {limits}; SHA-256 `{model.sha256}`.",
        "",
        "## How well",
        "",
        f"Measured with `tilingseg evaluate` {result.software} on the stitched outputs of "
        f"{runs}, areas of split `{result.split}`. Intervals: 95 %, drawn from windows of "
        f"{result.window_px} px. Rims of the boundary IoU are {result.boundary_px} px wide. "
        "Polygons match at an IoU of 0.5; centrelines at 3 m (3 px without a pixel size).",
        "",
        score_table(result.scores),
        "Calibration error: mean distance of the probability from the share that is true.",
        "",
        *(f"![best and worst windows]({name})\n" for name in pictures),
        "Measured on:",
        "",
        _split_table(result.measured_on),
        *_of_file(spec),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _of_file(spec: ModelSpec) -> list[str]:
    """Return what the model's file says of its making and its use."""
    return [
        "## Made from",
        "",
        _split_table(spec.splits) if spec.splits else "The model's file names no rasters.\n",
        "Origins and licences:",
        "",
        *(f"- {licence}" for licence in spec.sources),
        "",
        *_section("Limits", other_notes(spec.notes)),
        *_section("Not to be used", spec.not_for),
    ]


def _split_table(splits: Iterable[Split]) -> str:
    head = ["use", "source", "rasters", "which", "classes labelled"]
    return _table(
        head,
        (
            [use, source, str(count), f"`{which}`", classes]
            for use, source, count, which, classes in splits
        ),
    )


def _section(title: str, items: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *(f"- {item}" for item in items), ""] if items else []


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    cells = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _pair(score: RegionScore) -> str:
    if score.completeness is None and score.correctness is None:
        return "–"
    return f"{_text(score.completeness)} / {_text(score.correctness)}"
