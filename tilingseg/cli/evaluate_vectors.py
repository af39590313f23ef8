"""`tilingseg evaluate-vectors`: how well found polygons or lines agree with true ones."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tilingseg.metrics.vector_files import VectorPair, Vectors

_WIDTH = 16


@click.command("evaluate-vectors")
@click.argument("truth", type=click.Path(path_type=Path))
@click.argument("found", type=click.Path(path_type=Path))
@click.option(
    "--buffer",
    "buffer_m",
    type=click.FloatRange(0, min_open=True),
    default=3.0,
    metavar="METRES",
    help="Farthest that a found line may lie from a true one; pixels where there is no CRS.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def evaluate_vectors(truth: Path, found: Path, *, buffer_m: float, as_json: bool) -> None:
    """Compare FOUND with TRUTH: footprints, or a network of lines.

    Any two vector files will do, each with one layer; they may differ in CRS and format.
    """
    from tilingseg.metrics.vector_files import read_pair

    pair = read_pair(truth, found)
    scores = _polygon_scores(pair) if pair.kind == "polygons" else _line_scores(pair, buffer_m)
    if as_json:
        values = {
            "truth": _source(truth, pair.truth, pair),
            "found": _source(found, pair.found, pair),
            "kind": pair.kind,
            "unit": pair.unit,
            "scores": {key: value for key, _, value in scores},
        }
        click.echo(json.dumps(values, indent=1, allow_nan=False))
        return
    for name, path, vectors in (("truth", truth, pair.truth), ("found", found, pair.found)):
        click.echo(f"{name:<{_WIDTH}} {_described(path, vectors, pair)}")
    for _, name, value in scores:
        click.echo(f"{name:<{_WIDTH}} {_number(value)}")


def _polygon_scores(pair: VectorPair) -> list[tuple[str, str, float | int | None]]:
    """Return (key, name for people, value) of every score; None: it does not exist."""
    from tilingseg.metrics.polygons import compare_footprints

    scores = compare_footprints(
        pair.found.geometries.tolist(),
        pair.truth.geometries.tolist(),
        None if pair.found.confidence is None else pair.found.confidence.tolist(),
    )
    unit = pair.unit
    return [
        ("n_matched", "matched", scores.n_matched),
        ("precision", "precision", _known(scores.precision)),
        ("recall", "recall", _known(scores.recall)),
        ("f1", "F1", _known(scores.f1)),
        ("ap", "AP 0.5:0.95", _known(scores.average_precision)),
        ("ap50", "AP 0.5", _known(scores.average_precision_50)),
        ("iou", "mean IoU", _known(scores.iou)),
        ("iou_p5", "IoU p5", _known(scores.iou_p5)),
        (f"polis_{unit}", f"PoLiS, {unit}", _known(scores.polis_m)),
        (f"hausdorff_{unit}", f"Hausdorff, {unit}", _known(scores.hausdorff_m)),
        ("rotation_deg", "rotation, °", _known(scores.rotation_deg)),
        ("vertex_ratio", "vertex ratio", _known(scores.vertex_ratio)),
        ("area_bias", "area bias", _known(scores.area_bias)),
        ("n_split", "split", scores.n_split),
        ("n_merged", "merged", scores.n_merged),
    ]


def _line_scores(pair: VectorPair, buffer_m: float) -> list[tuple[str, str, float | int | None]]:
    """Return (key, name for people, value) of every score; None: it does not exist."""
    from tilingseg.metrics.roads import path_agreement, road_agreement

    truth, found, unit = pair.truth.geometries.tolist(), pair.found.geometries.tolist(), pair.unit
    lines = road_agreement(truth, found, buffer_m=buffer_m)
    ways = path_agreement(truth, found)
    return [
        (f"buffer_{unit}", f"buffer, {unit}", buffer_m),
        (f"truth_{unit}", f"true length, {unit}", lines.truth_m),
        (f"found_{unit}", f"found, {unit}", lines.found_m),
        ("completeness", "completeness", lines.completeness),
        ("correctness", "correctness", lines.correctness),
        ("quality", "quality", lines.quality),
        ("apls", "APLS", ways.apls),
    ]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _bare_crossings(vectors: Vectors) -> int:
    from tilingseg.metrics.roads import n_bare_crossings

    return n_bare_crossings(vectors.geometries.tolist())


def _source(path: Path, vectors: Vectors, pair: VectorPair) -> dict[str, Any]:
    return {
        "path": str(path),
        "crs": vectors.crs,
        "n": len(vectors.geometries),
        "n_repaired": vectors.n_repaired,
        "n_left_out": vectors.n_left_out,
    } | ({"n_bare_crossings": _bare_crossings(vectors)} if pair.kind == "lines" else {})


def _described(path: Path, vectors: Vectors, pair: VectorPair) -> str:
    remarks = [f"{len(vectors.geometries):,} {pair.kind}", vectors.crs or "pixels"]
    if vectors.n_repaired:
        remarks.append(f"{vectors.n_repaired:,} invalid ones repaired")
    if vectors.n_left_out:
        remarks.append(f"{vectors.n_left_out:,} features without {pair.kind} left out")
    if pair.kind == "lines" and (count := _bare_crossings(vectors)):
        remarks.append(f"{count:,} crossings without a common vertex, where APLS takes no turn")
    return f"{path}: {', '.join(remarks)}"


def _number(value: float | int | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.4f}"
