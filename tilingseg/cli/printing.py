"""What the commands show: progress bars on stderr, tables on stdout."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tilingseg.job import Job
    from tilingseg.model.load import LoadedModel
    from tilingseg.records import RunReport


_LOG_SECONDS = 30.0


def open_bar(*, quiet: bool, **look: Any) -> Any:
    """Return a tqdm bar on stderr: live on a terminal, a line every half minute in a log.

    Args:
        quiet: show nothing.
        **look: further arguments of tqdm.
    """
    from tqdm import tqdm

    pace: dict[str, Any] = {}
    if not sys.stderr.isatty():
        pace = {"delay": _LOG_SECONDS, "mininterval": _LOG_SECONDS, "maxinterval": _LOG_SECONDS}
    return tqdm(disable=quiet, file=sys.stderr, **pace, **look)


class Bars:
    """Progress bars on stderr, one a stage, with the time left."""

    def __init__(self, *, quiet: bool) -> None:
        """Show nothing where `quiet`."""
        self._quiet = quiet
        self._bar: Any = None
        self._stage = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Draw how far a stage is."""
        if self._stage != stage:
            self.close()
            self._stage = stage
            self._bar = open_bar(quiet=self._quiet, total=total, initial=done, desc=stage)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """End the last bar."""
        if self._bar is not None:
            self._bar.close()


def print_scene(job: Job) -> None:
    """Print the scene and model of a job."""
    scene = job.plan.scene
    spec = job.plan.model.spec
    print_rows(
        [
            ("scene", scene.uri),
            (
                "grid",
                f"{scene.width:,} × {scene.height:,} px at {pixel_text(scene.georef.gsd_m)}; "
                f"the file has {scene.source_shape[1]:,} × {scene.source_shape[0]:,} px at "
                f"{pixel_text(scene.source.gsd_m)}",
            ),
            ("model", f"{spec.name} ({', '.join(spec.classes)})"),
            *(("note", note) for note in scene.notes),
        ]
    )


def print_model(model: LoadedModel) -> None:
    """Print what is in a model file."""
    spec, geometry = model.spec, model.geometry
    how = "measured" if geometry.measured else "from its layers"
    exact = geometry.reason or f"exact with a halo of {geometry.halo_px} px, {how}"
    print_rows(
        [
            ("model", spec.name),
            ("network", f"{spec.network} {dict(spec.network_options)}"),
            ("bands", ", ".join(spec.bands)),
            (
                "classes",
                ", ".join(
                    f"{name} ≥ {value:g}"
                    for name, value in zip(spec.classes, spec.thresholds, strict=True)
                ),
            ),
            ("pixel", pixel_text(spec.gsd_m)),
            ("stitching", exact),
            ("sha256", model.sha256),
            *(("source", source) for source in spec.sources),
            *(("note", note) for note in spec.notes),
            *(("not for", use) for use in spec.not_for),
        ]
    )


def print_report(report: RunReport, *, verbose: bool) -> None:
    """Print the paths of the results to stdout and what was done to stderr."""
    for _, path in report.outputs:
        click.echo(path)
    rows = [
        (
            "tiles",
            f"{report.n_tiles:,} inferred, {report.n_tiles_nodata:,} without data, "
            f"{report.n_tiles_outside:,} outside the area",
        ),
        *counted(report.n_features, report.left_out),
        *(("note", note) for note in report.notes),
    ]
    if report.n_regions_resumed:
        rows.insert(0, ("resumed", f"{report.n_regions_resumed:,} regions were done before"))
    if verbose:
        rows += [(stage, f"{spent:.1f} s") for stage, spent in report.seconds]
    print_rows(rows, err=True)


def counted(
    n_features: tuple[tuple[str, int], ...], left_out: tuple[tuple[str, int], ...]
) -> list[tuple[str, str]]:
    """Return the rows that say what was vectorised and what was not."""
    rows = [(name, f"{count:,} features") for name, count in n_features]
    return rows + [("left out", f"{count:,} {reason}") for reason, count in left_out if count]


def print_rows(rows: list[tuple[str, str]], *, err: bool = False) -> None:
    """Print (name, text) rows as a table."""
    for name, text in rows:
        click.echo(f"{name:<10} {text}", err=err)


def pixel_text(gsd_m: float | None) -> str:
    """Put a pixel size into words; metres in."""
    if gsd_m is None:
        return "an unknown pixel size"
    return f"{gsd_m * 1e6:.3g} µm" if gsd_m < 1e-3 else f"{gsd_m:.3g} m"


def duration(seconds: float) -> str:
    """Put a duration into words; seconds in."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
