"""The order of an evaluation, and what it leaves in its folder.

    evaluation.json      every score, with model, thresholds and versions
    evaluation.md        the same as a table
    card.md              the model card
    windows_<class>.png  the best and the worst windows
    runs/                the outputs of every run, by region and raster

Thresholds can be chosen here, from the stitched probabilities of the same areas: for each class the
one with the best mean IoU over the regions. The model is then written with them, and measured again
as a user will run it.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from itertools import chain, count
from typing import TYPE_CHECKING

from tilingseg import __version__
from tilingseg.atomic import make_folder, write_whole
from tilingseg.errors import TrainingError
from tilingseg.evaluation.card import model_card, score_table
from tilingseg.evaluation.measure import ClassCounts, Setting, measure_raster
from tilingseg.evaluation.pictures import draw_windows
from tilingseg.evaluation.scores import RegionScore, joined_bins, region_scores
from tilingseg.job import RunOptions, load_once
from tilingseg.model.load import refuse_target, rewrite_spec
from tilingseg.progress import silent
from tilingseg.records import to_json
from tilingseg.training.origins import splits_of
from tilingseg.training.sources import match_files
from tilingseg.training.validate import best_thresholds, other_notes, score_notes

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tilingseg.model.spec import ModelSpec, Split
    from tilingseg.progress import Progress
    from tilingseg.training.recipe import SourceRecipe, TrainingRecipe


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOptions:
    """What the user may ask of an evaluation."""

    run: RunOptions = field(default_factory=RunOptions)
    """Model, device and whatever else a run has; area and outputs are set for every raster."""
    split: str = "validation"
    """Sources of the recipe that are measured."""
    window_px: int = 256
    """Side of the windows that intervals are drawn from, px of the run's grid."""
    boundary_px: int = 3
    """Width of the rim of the boundary IoU, px."""
    store_thresholds: Path | None = None
    """Choose the thresholds here and write the model with them to this file."""

    def __post_init__(self) -> None:
        """Refuse thresholds that are given and chosen at once.

        Raises:
            TrainingError: saying which of the two to leave out.
        """
        if self.store_thresholds is not None and self.run.thresholds:
            given = ", ".join(f"{name or 'all'} {value:g}" for name, value in self.run.thresholds)
            raise TrainingError(
                f"thresholds are given ({given}) and to be chosen and stored in "
                f"{self.store_thresholds}: leave one of the two out"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What was measured."""

    model: str
    """Name of the model."""
    sha256: str
    """Hash of its file."""
    software: str
    """Version of tilingseg."""
    split: str
    """Use of the sources that were measured."""
    measured_on: tuple[Split, ...]
    """Those sources."""
    thresholds: tuple[tuple[str, float], ...]
    """(class, probability) pairs that the masks were cut at."""
    gsd_m: float | None
    """Pixel size that the network saw, metres."""
    tta: bool
    """Whether eight orientations were averaged."""
    window_px: int
    """Side of the windows, px."""
    boundary_px: int
    """Width of the rims, px."""
    scores: tuple[RegionScore, ...]
    """One for each class and region."""


def evaluate(
    recipe: TrainingRecipe,
    data: Path,
    out: Path,
    *,
    options: EvaluateOptions | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Measure a model on the held-out areas of a recipe.

    Args:
        recipe: says where the areas and their labels are.
        data: folder that the recipe's paths are relative to.
        out: folder of the results; created, files of an earlier evaluation are replaced.
        options: what to do other than by default.
        progress: told how many rasters are done.

    Returns:
        The scores, which `out` holds as well.

    Raises:
        TilingSegError: the recipe has no such areas, labels cannot be read, or a run fails.
    """
    options = options or EvaluateOptions()
    make_folder(out)
    if options.store_thresholds is not None:
        refuse_target(options.store_thresholds)
        options = _with_thresholds(recipe, data, out, options, progress)
    model = load_once(options.run)
    counts = _measure_all(recipe, data, out, options, progress, whole=True)
    scores = region_scores(counts)
    result = Evaluation(
        model=model.spec.name,
        sha256=model.sha256,
        software=__version__,
        split=options.split,
        measured_on=splits_of(_measured(recipe, options.split), data),
        thresholds=tuple(_thresholds(options.run, model.spec).items()),
        gsd_m=model.spec.gsd_m if options.run.gsd_m is None else options.run.gsd_m,
        tta=options.run.tta,
        window_px=options.window_px,
        boundary_px=options.boundary_px,
        scores=scores,
    )
    pictures = draw_windows(out, counts)
    write_whole(out / "evaluation.json", json.dumps(to_json(result), indent=1))
    write_whole(out / "evaluation.md", score_table(scores))
    write_whole(out / "card.md", model_card(result, model, pictures))
    return result


def iou_by_region(
    recipe: TrainingRecipe,
    data: Path,
    out: Path,
    options: EvaluateOptions,
    progress: Progress = silent,
) -> dict[tuple[str, str], float]:
    """Measure the masks of a model alone, as `evaluate` does.

    Args:
        recipe: says where the areas and their labels are.
        data: folder that the recipe's paths are relative to.
        out: folder of the runs.
        options: model and split; thresholds are the model's or those given.
        progress: told how many rasters are done.

    Returns:
        IoU, 0…1, by (class, region), where it is defined.
    """
    scores = region_scores(_measure_all(recipe, data, out, options, progress, whole=False))
    return {(s.class_name, s.region): s.iou for s in scores if s.iou is not None}


def _thresholds(run: RunOptions, spec: ModelSpec) -> dict[str, float]:
    limits = dict(zip(spec.classes, spec.thresholds, strict=True))
    for name, value in run.thresholds:
        limits |= dict.fromkeys(spec.classes if name is None else (name,), value)
    return limits


def _measured(recipe: TrainingRecipe, split: str) -> list[SourceRecipe]:
    """Return the sources of a recipe that are measured."""
    splits = (split, "blocks" if split == "validation" else split)
    sources = [source for source in recipe.sources if source.split in splits]
    if not sources:
        raise TrainingError(f"the recipe has no source with split = {split!r}")
    return sources


def _measure_all(
    recipe: TrainingRecipe,
    data: Path,
    out: Path,
    options: EvaluateOptions,
    progress: Progress,
    *,
    whole: bool,
) -> list[ClassCounts]:
    sources = _measured(recipe, options.split)
    setting = Setting(
        recipe=recipe,
        data=data,
        spec=load_once(options.run).spec,
        run=options.run,
        window_px=options.window_px,
        boundary_px=options.boundary_px,
        whole=whole,
    )
    if not set(recipe.classes) & set(setting.spec.classes):
        raise TrainingError(
            f"the recipe labels {', '.join(recipe.classes)}, but model {setting.spec.name!r} "
            f"finds {', '.join(setting.spec.classes)}"
        )
    jobs = [(source, *found) for source in sources for found in match_files(source, data)]
    folders = _folders([(source.name, path.relative_to(data)) for source, path, _ in jobs], out)
    counts: list[ClassCounts] = []
    for done, (source, path, stars) in enumerate(jobs):
        progress("rasters", done, len(jobs))
        counts += measure_raster(path, stars, source, folders[done], setting)
    progress("rasters", len(jobs), len(jobs))
    return counts


def _folders(rasters: Iterable[tuple[str, Path]], out: Path) -> list[Path]:
    """Return a folder for each raster, by its source and its path in the data.

    Files of one stem, and parts of one file, get numbers: what one run wrote must not be taken for
    what another one did.
    """
    folders: dict[Path, None] = {}
    for name, path in rasters:
        inside = (part for part in path.with_suffix("").parts if part != "..")
        plain = (out / "runs" / name).joinpath(*inside)
        numbered = (plain.with_name(f"{plain.name}-{number}") for number in count(2))
        folders[next(item for item in chain([plain], numbered) if item not in folders)] = None
    return list(folders)


def _with_thresholds(
    recipe: TrainingRecipe, data: Path, out: Path, options: EvaluateOptions, progress: Progress
) -> EvaluateOptions:
    """Choose thresholds, write the model with them, and return options that use it."""
    target = options.store_thresholds
    assert target is not None
    spec = load_once(options.run).spec
    bins = joined_bins(_measure_all(recipe, data, out, options, progress, whole=False))
    limits = dict(zip(spec.classes, spec.thresholds, strict=True))
    # A class that is labelled nowhere here keeps the threshold it had.
    labelled = tuple({score.class_name: None for score in bins if score.positive.any()})
    limits |= dict(zip(labelled, best_thresholds(bins, labelled), strict=True))
    notes = (*score_notes(bins, limits), *other_notes(spec.notes))
    chosen = dataclasses.replace(spec, thresholds=tuple(limits.values()), notes=notes)
    rewrite_spec(options.run.model, target, chosen)
    run = dataclasses.replace(options.run, model=target, model_sha256=None)
    return dataclasses.replace(options, run=run, store_thresholds=None)
