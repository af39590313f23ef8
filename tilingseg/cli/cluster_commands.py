"""`tilingseg batch`, and the flags that send the work of a command to a cluster."""

from __future__ import annotations

import contextlib
import shlex
from typing import TYPE_CHECKING, Any

import click

from tilingseg.cli.options import run_options, scene_options
from tilingseg.cli.output_options import output_flags, output_options
from tilingseg.cli.printing import open_bar, print_rows
from tilingseg.errors import ClusterError, DependencyError, SceneError
from tilingseg.places import absolute, place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tilingseg.cluster.batch import BatchPlan, CarryOut
    from tilingseg.cluster.ledger import Ledger
    from tilingseg.cluster.outcome import BatchState
    from tilingseg.cluster.recipe import ClusterRecipe
    from tilingseg.cluster.summary import Line
    from tilingseg.job import RunOptions
    from tilingseg.progress import Progress
    from tilingseg.records import RunReport

    Command = Callable[..., None]

MAX_NAMED = 4
"""Scenes that a message does not repeat any more."""
MAX_LISTED = 20
"""Failed and outdated scenes that are listed; the summary has them all."""


def cluster_flags(command: Command) -> Command:
    """Add the flags that choose workers."""
    for option in (
        click.option(
            "--region-size",
            type=click.IntRange(1),
            metavar="PX",
            help="Side of a region, the unit of work and of resuming. [default: 4096, or less "
            "where a scene is small]",
        ),
        click.option(
            "--cluster-workers",
            type=click.IntRange(1),
            metavar="N",
            help="Most workers of the cluster. [default: 2, or the recipe's]",
        ),
        click.option(
            "--cluster",
            metavar="KIND|ADDRESS|FILE",
            help="Work on a Dask cluster: local, slurm, pbs, lsf, sge, tcp://host:8786, or a "
            "recipe that ends in .toml. [default: in this process]",
        ),
    ):
        command = option(command)
    return command


def full_options(wishes: dict[str, Any]) -> RunOptions:
    """Turn the parsed flags of a command that does whole scenes into options of the API."""
    from dataclasses import replace

    options = run_options(wishes)
    return replace(
        options,
        tiling=replace(options.tiling, region_px=wishes["region_size"]),
        outputs=output_options(wishes),
        overwrite=wishes["overwrite"],
        resume=wishes["resume"],
    )


def run_on_cluster(
    scene: str, wishes: dict[str, Any], options: RunOptions, progress: Progress
) -> RunReport:
    """Do one scene on the workers that the flags choose."""
    from tilingseg.output_folder import OutputFolder

    uri, out_dir = absolute(scene), wishes["out"]
    name = _name_of(uri, options) if out_dir is None else ""
    folder = OutputFolder.of(name, out_dir)
    if not options.overwrite:  # before a job waits in a queue for it
        folder.refuse_complete()
    with _client(wishes, options) as client:
        from tilingseg.cluster.foreman import run_scene
        from tilingseg.cluster.tasks import SceneJob, shared

        job = SceneJob(uri=uri, out_dir=folder.path.absolute(), options=shared(options))
        return run_scene(client, job, progress)


def _name_of(uri: str, options: RunOptions) -> str:
    """Return the name that a scene gives itself once it is open."""
    from tilingseg.readers import open_scene

    selectors = dict(options.selectors)
    with contextlib.closing(open_scene(uri, bands=options.bands, selectors=selectors)) as reader:
        return reader.scene.name


def one_scene(_context: click.Context, _parameter: click.Parameter, named: tuple[str, ...]) -> str:
    """Take the scene of a command that does one; several are for `batch`.

    Raises:
        SceneError: several are named, or a pattern or list of them.
    """
    scene, *others = named
    if others or _names_others(scene):
        what = f"{len(named)} scenes are named" if others else f"{scene} names scenes, and is none"
        arguments = shlex.join(named) if len(named) < MAX_NAMED else "SCENES…"
        raise SceneError(f"{what}; do them with: tilingseg batch {arguments}")
    return scene


def _names_others(scene: str) -> bool:
    from tilingseg.cluster.manifest import may_list

    if not may_list(scene):
        return False
    from tilingseg.readers import open_scene

    try:
        open_scene(scene).close()
    except SceneError:
        return True
    return False  # a grid as text, or a mosaic that GDAL knows


def cluster_recipe(wishes: dict[str, Any]) -> ClusterRecipe | None:
    """Return the cluster that the flags choose; None: this process does the work."""
    from tilingseg.cluster.recipe import read_cluster

    if wishes["cluster"] is None:
        if wishes["cluster_workers"] is not None:
            raise click.UsageError("--cluster-workers needs --cluster, as --cluster local")
        return None
    return read_cluster(wishes["cluster"], wishes["cluster_workers"])


@contextlib.contextmanager
def _client(wishes: dict[str, Any], options: RunOptions) -> Iterator[Any]:
    recipe = cluster_recipe(wishes)
    assert recipe is not None
    try:
        from tilingseg.cluster.clusters import open_cluster
    except ImportError as error:
        raise DependencyError(
            "--cluster needs dask.distributed: pip install tilingseg[cluster]"
        ) from error
    with open_cluster(recipe, options) as client:
        yield client


class BatchBar:
    """One progress bar for scenes and regions, with the time left."""

    def __init__(self, *, quiet: bool) -> None:
        """Show nothing where `quiet`."""
        self._bar = open_bar(
            quiet=quiet,
            total=1.0,
            desc="scenes",
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
        )

    def __call__(self, state: BatchState) -> None:
        """Draw how far the batch is."""
        failed = f", {state.n_scenes_failed:,} failed" if state.n_scenes_failed else ""
        self._bar.set_postfix_str(
            f"{state.n_scenes_done:,}/{state.n_scenes:,} scenes{failed}, {_steps(state)}, "
            f"{state.n_workers:,} workers",
            refresh=False,
        )
        self._bar.update(max(0.0, state.share - self._bar.n))

    def close(self) -> None:
        """End the bar."""
        self._bar.close()


def _steps(state: BatchState) -> str:
    if state.n_tiles_done:
        return f"{state.n_tiles_done:,} tiles"
    regions = f"{state.n_regions_done:,}/{state.n_regions_opened:,} regions"
    if not state.n_parts_opened:
        return regions
    return f"{regions}, vectors {state.n_parts_done:,}/{state.n_parts_opened:,}"


@click.command()
@click.argument("scenes", nargs=-1, required=True)
@click.option(
    "-o",
    "--out",
    type=place,
    default="tilingseg_batch",
    metavar="FOLDER|URL",
    help="Folder of the batch, or s3://…: one folder a scene, and the summary.",
)
@click.option("-f", "--overwrite", is_flag=True, help="Do all scenes again.")
@click.option(
    "--update",
    is_flag=True,
    help="Do scenes again whose results are outdated: of other options, another model file or "
    "another revision of the scene.",
)
@click.option(
    "--resume/--no-resume", default=True, help="Go on with interrupted scenes, or start anew."
)
@click.option("--retry-failed", is_flag=True, help="Try scenes again that failed before.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Do so many scenes at most.")
@click.option("--dry-run", is_flag=True, help="List what would be done, open nothing.")
@click.option("--asset", metavar="KEY", help="Asset of STAC items. [default: the one raster]")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@output_flags
@cluster_flags
@scene_options
def batch(scenes: tuple[str, ...], *, dry_run: bool, quiet: bool, **wishes: Any) -> None:
    """Segment many SCENES: paths, URLs, patterns, .txt, .csv, .parquet or STAC .json files.

    Scenes that are done are skipped, so that the same command does what is missing. Exits with 1
    while a scene has failed, or has results of something else than what is asked for.
    """
    from tilingseg.cluster.batch import BatchOptions, plan_batch
    from tilingseg.cluster.ledger import Ledger
    from tilingseg.cluster.manifest import list_scenes

    options = full_options(wishes)
    cluster_recipe(wishes)  # wrong names are told before the night, and by a dry run too
    flags = ("retry_failed", "update", "overwrite", "limit")
    wanted = BatchOptions(**{name: wishes[name] for name in flags})
    ledger = Ledger(wishes["out"].absolute(), options)
    plan = plan_batch(list_scenes(scenes, wishes["asset"]), ledger, wanted)
    if dry_run:
        for standing in plan.chosen:
            click.echo(f"{standing.entry.uri} → {wishes['out'] / standing.entry.name}")
        print_rows(_counts(plan), err=True)
        return
    path, lines = _carry_out(plan, ledger, options, wishes, quiet=quiet)
    if not quiet:
        click.echo(path)
        print_rows(_results(plan, lines), err=True)
    if lacks := _lacks(lines):
        raise ClusterError(f"{lacks}; see {path.with_name('summary.md')}")


def _lacks(lines: list[Line]) -> str:
    """Say which scenes have not what was asked for, and what to do; empty: none."""
    lacks = (("failed", "failed", "--retry-failed"), ("outdated", "are outdated", "--update"))
    return "; ".join(
        f"{count:,} of {len(lines):,} scenes {words}, do them again with {flag}"
        for status, words, flag in lacks
        if (count := sum(line.status == status for line in lines))
    )


def _carry_out(
    plan: BatchPlan, ledger: Ledger, options: RunOptions, wishes: dict[str, Any], *, quiet: bool
) -> tuple[Path, list[Line]]:
    from tilingseg.cluster.batch import one_by_one, run_batch
    from tilingseg.cluster.tasks import placed, shared

    options = placed(options)
    with contextlib.ExitStack() as stack:
        carry_out: CarryOut = one_by_one
        if wishes["cluster"] is not None and plan.chosen:
            from functools import partial

            options = shared(options)
            client = stack.enter_context(_client(wishes, options))
            from tilingseg.cluster import foreman

            carry_out = partial(foreman.carry_out, client)
        bar = stack.enter_context(contextlib.closing(BatchBar(quiet=quiet or not plan.chosen)))
        return run_batch(plan, ledger, options, carry_out, bar)


def _counts(plan: BatchPlan) -> list[tuple[str, str]]:
    rows = [
        ("scenes", f"{len(plan.standings):,}"),
        ("to do", f"{len(plan.chosen):,}"),
        ("done", f"{plan.n_left('done'):,} before"),
    ]
    for status, flag in (("failed", "--retry-failed"), ("outdated", "--update")):
        if count := plan.n_left(status):
            rows.append((status, f"{count:,} before, done again with {flag}"))
    if plan.n_later:
        rows.append(("later", f"{plan.n_later:,} beyond the limit"))
    return rows


def _results(plan: BatchPlan, lines: list[Line]) -> list[tuple[str, str]]:
    done = [line for line in lines if line.status == "done"]
    pixels = sum(line.n_pixels_valid for line in done)
    before = plan.n_left("done")
    rows = [
        ("scenes", f"{len(lines):,}: {len(done):,} done, {before:,} of them before"),
        ("pixels", f"{pixels:,} valid, {sum(line.n_features for line in done):,} features"),
    ]
    if plan.n_later:
        rows.append(("later", f"{plan.n_later:,} beyond the limit"))
    if count := sum(line.status == "waiting" for line in lines) - plan.n_later:
        rows.append(("waiting", f"{count:,} that another process is at work on"))
    for status in ("failed", "outdated"):
        listed = [line for line in lines if line.status == status]
        rows += [(status, f"{line.scene}: {line.reason}") for line in listed[:MAX_LISTED]]
        if len(listed) > MAX_LISTED:
            rows.append((status, f"and {len(listed) - MAX_LISTED:,} more"))
    return rows
