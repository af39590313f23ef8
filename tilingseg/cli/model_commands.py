"""The commands about models: train one, measure one, list those that come with the package."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tilingseg.cli.options import (
    data_option,
    engine_options,
    folder_option,
    parse_bands,
    parse_thresholds,
    split_option,
    tta_option,
)
from tilingseg.cli.printing import Bars, open_bar, pixel_text, print_rows

if TYPE_CHECKING:
    from tilingseg.evaluation.scores import RegionScore


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@data_option
@folder_option("model, checkpoint, log and pictures", "training")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in the output folder.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Processor threads.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors and the model's path.")
def train(
    recipe: Path, data: Path | None, out: Path | None, *, resume: bool, **wishes: Any
) -> None:
    """Train a network by RECIPE, a TOML file, and write it as a model that `run` can use."""
    from tilingseg.training.group import speaks
    from tilingseg.training.loop import train as train_model
    from tilingseg.training.recipe import read_recipe

    job = read_recipe(recipe)
    silent = wishes["quiet"] or not speaks()
    with open_bar(quiet=silent, unit="step") as bar:

        def show(done: int, total: int, text: str) -> None:
            if bar.total != total:
                # A resumed job starts in the middle; what was done before took no time now.
                bar.reset(total)
                bar.initial = bar.n = done - 1
            bar.set_postfix_str(text, refresh=False)
            bar.update(done - bar.n)

        try:
            folder = out or Path(f"{job.name}_training")
            path = train_model(
                job,
                data or recipe.parent,
                folder,
                resume=resume,
                threads=wishes["threads"],
                progress=show,
            )
        except KeyboardInterrupt:
            bar.close()
            click.echo("interrupted; go on with --resume", err=True)
            sys.exit(130)
    if speaks():
        click.echo(path)


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--model", default="buildings-roads", metavar="NAME|FILE", help="Model to measure.")
@data_option
@folder_option("table, model card, pictures and runs", "evaluation")
@split_option
@click.option(
    "--store-thresholds",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Choose thresholds on these areas, write the model with them to FILE and measure that.",
)
@click.option(
    "--threshold",
    "thresholds",
    multiple=True,
    callback=parse_thresholds,
    metavar="P|CLASS=P",
    help="Least probability; may repeat. [default: the model's]",
)
@click.option("--gsd", type=float, metavar="METRES", help="Pixel size that the network sees.")
@click.option("--bands", callback=parse_bands, metavar="1,2,3", help="Bands in the model's order.")
@tta_option
@engine_options
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors and the table.")
def evaluate(recipe: Path, data: Path | None, out: Path | None, **wishes: Any) -> None:
    """Measure a model on the held-out areas of RECIPE, by whole runs, stitched.

    For each class and region: IoU with its interval, F1, precision, recall, boundary IoU, F1 of
    polygons, completeness and correctness of centrelines, calibration. Writes the table, the model
    card, and the best and worst windows as pictures.
    """
    from tilingseg.evaluation import EvaluateOptions
    from tilingseg.evaluation import evaluate as measure
    from tilingseg.job import RunOptions
    from tilingseg.training.recipe import read_recipe

    job = read_recipe(recipe)
    options = EvaluateOptions(
        run=RunOptions(
            model=wishes["model"],
            tta=wishes["tta"],
            bands=wishes["bands"],
            gsd_m=wishes["gsd"],
            thresholds=wishes["thresholds"],
            device=wishes["device"],
            precision=wishes["precision"],
            engine=wishes["engine"],
        ),
        split=wishes["split"],
        store_thresholds=wishes["store_thresholds"],
    )
    folder = out or Path(f"{job.name}_evaluation")
    bars = Bars(quiet=wishes["quiet"])
    try:
        result = measure(job, data or recipe.parent, folder, options=options, progress=bars)
    finally:
        bars.close()
    limits = ", ".join(f"{name} ≥ {value:g}" for name, value in result.thresholds)
    click.echo(f"{result.model}, {limits}")
    for line in _score_lines(result.scores):
        click.echo(line)
    click.echo(folder / "card.md")


def _score_lines(scores: tuple[RegionScore, ...]) -> list[str]:
    """Return the scores as lines that fit a terminal; everything is in the files."""
    head = ("class", "region", "IoU", "95 %", "F1", "bound.", "inst.", "compl.", "corr.", "calib.")
    rows: list[tuple[str, ...]] = [head]
    for score in scores:
        span = "–" if score.iou_low is None else f"{score.iou_low:.2f}–{score.iou_high:.2f}"
        values = (
            *(score.iou, score.f1, score.boundary_iou, score.instance_f1),
            *(score.completeness, score.correctness, score.calibration_error),
        )
        texts = ["–" if value is None else f"{value:.3f}" for value in values]
        rows.append((score.class_name, score.region, texts[0], span, *texts[1:]))
    widths = [max(len(row[k]) for row in rows) for k in range(len(head))]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


@click.command()
@click.argument("name", required=False)
def models(name: str | None) -> None:
    """List the models that come with the package, or print the card of the one called NAME."""
    from tilingseg.model.load import available_models, load_model, read_card

    if name is not None:
        click.echo(read_card(name), nl=False)
        return
    for item in available_models():
        spec = load_model(item).spec
        print_rows(
            [
                ("model", item),
                ("classes", ", ".join(spec.classes)),
                ("bands", f"{', '.join(spec.bands)} at {pixel_text(spec.gsd_m)}"),
                *(("source", source) for source in spec.sources),
                *(("note", note) for note in spec.notes),
                *(("not for", use) for use in spec.not_for),
                ("card", f"tilingseg models {item}"),
            ]
        )
