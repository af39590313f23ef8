"""Measure what a cluster adds and what it gives: `python pipelines/bench_cluster.py COMMAND`.

    overhead N…       regions without data through a real scheduler: time a region, time to the
                      first one, memory of client and scheduler
    scaling SCENE     one worker of one processor against two, in turns, stage by stage
    bits SCENE        one process, 1, 2 and 4 local workers and an external scheduler: same bytes?
    small SCENE       the scene cut into many small ones: a batch of them against the scene itself

Client and scheduler live in this process, workers in processes of their own. `cpu` counts all of
them and is the honest column on a machine that others use too.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click
import rasterio
import zarr
from affine import Affine
from rasterio.windows import Window

from tilingseg.cluster.clusters import open_cluster
from tilingseg.cluster.foreman import carry_out
from tilingseg.cluster.recipe import ClusterRecipe
from tilingseg.cluster.tasks import SceneJob, shared
from tilingseg.job import RunOptions
from tilingseg.output_folder import OutputOptions
from tilingseg.tiling import TilingOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client, Worker

    from tilingseg.cluster.outcome import BatchState

EMPTY_PX = 128
"""Side of a region without data, px."""


@click.group()
def main() -> None:
    """Measure clusters of workers on this machine."""


@main.command()
@click.argument("counts", nargs=-1, type=int)
@click.option("--workers", default=2, help="Workers, one thread each.")
@click.option("--done", default=1.0, help="Part of the regions to wait for, 0…1.")
def overhead(counts: tuple[int, ...], workers: int, done: float) -> None:
    """Send COUNTS of empty regions through the scheduler."""
    click.echo(f"{'regions':>9} {'first after':>12} {'a region':>9} {'client and scheduler':>29}")
    for count in counts or (1_000, 10_000):
        with tempfile.TemporaryDirectory() as folder:
            first_s, region_s, cpu_s = _empty_regions(Path(folder), count, workers, done)
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        click.echo(
            f"{count:>9,} {first_s:>10.2f} s {region_s * 1e3:>6.1f} ms "
            f"cpu {cpu_s * 1e3:>6.1f} ms, peak {peak_mb:>6,.0f} MB"
        )


def _empty_regions(
    folder: Path, count: int, workers: int, done: float
) -> tuple[float, float, float]:
    """Do regions without data.

    Returns:
        When the first one was done, what each of the others took, and what client and scheduler
        worked for each of them, all in seconds.
    """
    n_cols = int(count**0.5)
    shape = (3, -(-count // n_cols) * EMPTY_PX, n_cols * EMPTY_PX)
    scene = zarr.create_array(
        folder / "empty.zarr", shape=shape, chunks=(3, 4096, 4096), dtype="uint8", fill_value=0
    )
    scene.attrs["_FillValue"] = 0
    options = RunOptions(
        device="cpu",
        pixel_m=0.5,
        tiling=TilingOptions(tile_size_px=512, region_px=EMPTY_PX),
        outputs=OutputOptions(formats=("cog",)),
    )
    job = SceneJob(uri=str(folder / "empty.zarr"), out_dir=folder / "out", options=shared(options))
    times: list[tuple[float, float, int]] = []

    class EnoughError(Exception):
        """So many regions were asked for."""

    def watch(state: BatchState) -> None:
        if state.n_regions_done:
            times.append((time.perf_counter(), time.process_time(), state.n_regions_done))
        if done < 1 and state.n_regions_done >= done * count:
            raise EnoughError

    with open_cluster(ClusterRecipe(kind="local", workers=workers), options) as client:
        client.wait_for_workers(workers)
        start = time.perf_counter()
        try:
            for outcome in carry_out(client, [job], 1, watch):
                if outcome.report is None:
                    raise click.ClickException(outcome.reason)
        except EnoughError:
            pass
    (first, first_cpu, before), (last, last_cpu, after) = (
        times[0],
        next(t for t in times if t[2] == times[-1][2]),
    )
    n_more = max(1, after - before)
    return first - start, (last - first) / n_more, (last_cpu - first_cpu) / n_more


@main.command()
@click.argument("scene")
@click.option("--region-size", default=1024, help="Side of a region, px.")
@click.option("--turns", type=click.IntRange(1), default=2, help="Runs of each.")
def scaling(scene: str, region_size: int, turns: int) -> None:
    """Time SCENE with one worker of one processor and with two."""
    if (count := len(os.sched_getaffinity(0))) < 2:
        raise click.ClickException(f"two workers need two processors, and {count} may be used here")
    options = RunOptions(device="cpu", tiling=TilingOptions(region_px=region_size))
    best: dict[tuple[str, int], float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(turns):
            for workers in (1, 2):
                job = SceneJob(
                    uri=str(Path(scene).absolute()),
                    out_dir=Path(folder) / f"{turn}-{workers}",
                    options=shared(options),
                )
                click.echo(f"{workers} worker(s)")
                for stage, wall_s, cpu_s in _stages(job, options, workers):
                    click.echo(f"    {stage:<14} {wall_s:6.2f} s, {cpu_s:6.2f} s of processor time")
                    key = stage, workers
                    best[key] = min(wall_s, best.get(key, wall_s))
    for stage in dict.fromkeys(stage for stage, _ in best):
        ratio = best[stage, 1] / best[stage, 2]
        click.echo(f"{stage:<14} two workers are {ratio:.2f} × as fast as one")


def _stages(job: SceneJob, options: RunOptions, workers: int) -> list[tuple[str, float, float]]:
    """Do a scene.

    Returns:
        Name, seconds by the clock and processor seconds of the workers, for each stage, for all
        but the start, and for all.
    """
    start = time.perf_counter()
    marks: list[tuple[str, float, float]] = []

    def mark(stage: str) -> None:
        if not marks or marks[-1][0] != stage:
            marks.append((stage, time.perf_counter(), _workers_cpu_s(client)))

    def watch(state: BatchState) -> None:
        if state.n_scenes_done:
            mark("publish")
        elif state.n_parts_done and state.n_parts_done == state.n_parts_opened:
            mark("vectors")
        elif state.n_regions_done and state.n_regions_done == state.n_regions_opened:
            mark("regions")
        elif state.n_regions_opened:
            mark("open")

    recipe = ClusterRecipe(kind="local", workers=workers)
    with open_cluster(recipe, options) as client:
        client.wait_for_workers(workers)
        client.run(_pin)
        mark("start")
        (outcome,) = carry_out(client, [job], 1, watch)
    if outcome.report is None:
        raise click.ClickException(outcome.reason)
    before, found = ("", start, 0.0), []
    for at in marks:
        found.append((at[0], at[1] - before[1], at[2] - before[2]))
        before = at
    first, last = marks[0], marks[-1]
    found.append(("without start", last[1] - first[1], last[2] - first[2]))
    return [*found, ("all", last[1] - start, last[2])]


@main.command()
@click.argument("scene")
@click.option("--region-size", default=2048, help="Side of a region, px.")
@click.option("--flags", default="--probability", help="Further flags of `tilingseg run`.")
def bits(scene: str, region_size: int, flags: str) -> None:
    """Compare the outputs of SCENE from one process and from clusters, byte by byte."""
    common = ["--region-size", str(region_size), "--device", "cpu", "-q", *flags.split()]
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        address = stack.enter_context(_External(folder, 2))
        local = ["--cluster", "local", "--cluster-workers"]
        ways = {
            "one process": [],
            **{f"local, {n} worker(s)": [*local, str(n)] for n in (1, 2, 4)},
            "external scheduler": ["--cluster", address],
        }
        expected: dict[str, bytes] = {}
        for way, more in ways.items():
            out, start = folder / way, time.perf_counter()
            _tilingseg("run", scene, "-o", str(out), *common, *more)
            found = {
                path.name: path.read_bytes()
                for path in out.iterdir()
                if path.is_file() and path.name != "run.json"  # holds seconds
            }
            expected = expected or found
            verdict = "same bytes" if found == expected else "DIFFERENT"
            seconds = time.perf_counter() - start
            click.echo(f"{way:<22} {seconds:6.1f} s  {len(found)} files, {verdict}")
            if found != expected:
                raise click.ClickException(f"{way} differs")


class _External:
    """A scheduler and workers as processes of their own."""

    def __init__(self, folder: Path, workers: int) -> None:
        self._folder, self._workers = folder, workers
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> str:
        file = self._folder / "scheduler.json"
        arguments = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        self._start("scheduler", *arguments, "--scheduler-file", str(file))
        while not file.exists() or not file.read_text():
            time.sleep(0.05)
        address = str(json.loads(file.read_text())["address"])
        for index in range(self._workers):
            place = str(self._folder / f"worker{index}")
            self._start("worker", address, "--nthreads", "1", "--local-directory", place)
        return address

    def __exit__(self, *_error: object) -> None:
        for process in reversed(self._processes):
            process.terminate()
            process.wait()

    def _start(self, kind: str, *arguments: str) -> None:
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *arguments]
        self._processes.append(
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )


@main.command()
@click.argument("scene", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--count", type=click.IntRange(1), default=200, help="Small scenes.")
@click.option("--flags", default="", help="Further flags of both commands.")
def small(scene: Path, count: int, flags: str) -> None:
    """Cut SCENE into COUNT small scenes; time a batch of them and a run of the scene."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index, (dataset, window) in enumerate(_cuts(scene, count)):
            a, b, _, d, e, _ = dataset.transform[:6]
            left, top = dataset.xy(window.row_off, window.col_off, offset="ul")
            profile = {
                **dataset.profile,
                "driver": "GTiff",
                "width": window.width,
                "height": window.height,
                "transform": Affine(a, b, left, d, e, top),
            }
            with rasterio.open(folder / f"scene{index:04d}.tif", "w", **profile) as file:
                file.write(dataset.read(window=window))
        common = ["--device", "cpu", "-q", *flags.split()]
        costs = {}
        for way, arguments in (
            ("one scene", ("run", str(scene), "-o", str(folder / "one"))),
            (f"{count} scenes", ("batch", str(folder / "scene*.tif"), "-o", str(folder / "many"))),
        ):
            before, start = _children_cpu_s(), time.perf_counter()
            _tilingseg(*arguments, *common)
            costs[way] = time.perf_counter() - start
            cpu_s = _children_cpu_s() - before
            click.echo(f"{way:<12} {costs[way]:6.1f} s, cpu {cpu_s:6.1f} s")
        one, many = costs.values()
        click.echo(f"throughput of the batch: {one / many:.2f} of that of the one scene")


def _cuts(scene: Path, count: int) -> Iterator[tuple[rasterio.DatasetReader, Window]]:
    """Yield windows that cover a scene, near squares; those of the last row may be wider."""
    with rasterio.open(scene) as dataset:
        n_cols = max(1, round((count * dataset.width / dataset.height) ** 0.5))
        n_rows = -(-count // n_cols)
        if n_rows > dataset.height or n_cols > dataset.width:
            raise click.ClickException(f"{scene} has too few pixels for {count:,} scenes")
        for row in range(n_rows):
            n_here = min(n_cols, count - row * n_cols)
            top, bottom = (at * dataset.height // n_rows for at in (row, row + 1))
            for col in range(n_here):
                left, right = (at * dataset.width // n_here for at in (col, col + 1))
                yield dataset, Window(left, top, right - left, bottom - top)


def _tilingseg(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "tilingseg", *arguments], check=False)
    if done.returncode:
        raise click.ClickException(f"tilingseg {' '.join(arguments)} failed")


def _pin(dask_worker: Worker) -> None:
    """Give a worker one processor, as a batch system does: its reading threads would take more."""
    allowed = sorted(os.sched_getaffinity(0))
    processor = allowed[int(dask_worker.name) % len(allowed)]
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), {processor})


def _workers_cpu_s(client: Client) -> float:
    return float(sum(client.run(time.process_time).values()))


def _children_cpu_s() -> float:
    times = os.times()
    return times.children_user + times.children_system


if __name__ == "__main__":
    main()
