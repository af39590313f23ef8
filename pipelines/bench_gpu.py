"""Measure a GPU: `python pipelines/bench_gpu.py --json results.json`.

For the bundled model and for the classic U-Net of 31 million weights, in each precision: megapixels
a second from GeoTIFF to finished regions, everything loaded and each kernel run once before, beside
the bare network. A scene is coloured noise on an uncompressed GeoTIFF, so that the GPU is measured
and not the decoder; a second table says how many threads keep up with a compressed one. fp32 is all
of float32: TF32 is off, as in every run.

`whole` is the bare network on whole tiles without overlap, nothing around it: what a scene's pixels
cost at least. `core` is the same for the part of a tile that a run uses. `share` is what a run has
of them: scene pixels of `whole`, inferred pixels of `core`. `idle` is the share of the time in
which the GPU had no forward pass to do, by its own clock; `busy` what `nvidia-smi` saw meanwhile.
`graph` is the time of a core pass replayed as a CUDA graph, over its time.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import rasterio
import torch
from affine import Affine
from torch.nn.utils import convert_conv2d_weight_memory_format

from tilingseg.atomic import make_folder
from tilingseg.errors import TilingSegError
from tilingseg.flow import infer_regions, open_store, prepare_in
from tilingseg.infer.devices import choose_devices
from tilingseg.infer.engine import PRECISIONS
from tilingseg.infer.steady import STEADY_KERNELS
from tilingseg.job import RunOptions
from tilingseg.model.core import core_logits
from tilingseg.model.load import DEFAULT_MODEL, build_network, save_model
from tilingseg.model.spec import ModelSpec
from tilingseg.output_folder import OutputOptions
from tilingseg.outputs import Before, publish
from tilingseg.progress import silent
from tilingseg.records import to_json
from tilingseg.tiling import TilingOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tilingseg.job import Job

BLOCK_PX = 512
UNET31 = ModelSpec(
    name="unet31",
    network="unet",
    network_options=(("features", (64, 128, 256, 512)),),
    bands=("red", "green", "blue"),
    classes=("building", "road"),
    thresholds=(0.5, 0.5),
    gsd_m=0.5,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
)
"""The paper's widths, 64 to 1024: 31 million weights."""
LEAST_S = 0.5
"""Time that bare passes are measured for, seconds."""
N_READERS = (1, 2, 4, 8, 12)
"""Reader threads of the second table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bare:
    """What the network alone takes for one batch of tiles, seconds."""

    whole_s: float
    """On whole tiles."""
    core_s: float
    """For the cores of the same tiles."""
    graph: float | None
    """A core pass as a CUDA graph over one that is launched kernel by kernel; None: no GPU."""
    n_tiles: int
    """Tiles of the batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one run took."""

    wall_s: float
    """From the first tile to the last finished region, seconds."""
    export_s: float | None
    """Mask and preview afterwards, seconds; None: not made."""
    stages: dict[str, float]
    """(stage, seconds) of all regions."""
    busy: float | None
    """Mean utilisation that `nvidia-smi` saw, 0…1."""
    peak_bytes: int
    """Most memory that PyTorch held on the device, bytes."""


def _parse_precisions(_context: click.Context, _option: click.Parameter, text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in PRECISIONS]:
        raise click.BadParameter(f"{unknown[0]!r} is none of {', '.join(PRECISIONS)}")
    return names


_COUNT = click.IntRange(1)


@click.command()
@click.option("--device", default="cuda:0", help="Where to measure.")
@click.option("--small-px", type=_COUNT, default=24576, help="Side of the first model's scene.")
@click.option("--large-px", type=_COUNT, default=24576, help="Side of the large model's scene.")
@click.option("--fp32-px", type=_COUNT, default=8192, help="Side of its scene in fp32.")
@click.option(
    "--deflate-px", type=click.IntRange(0), default=12288, help="Side of a compressed one; 0: none."
)
@click.option("--tile", type=_COUNT, metavar="PX", help="Side of a tile. [default: as planned]")
@click.option(
    "--precisions",
    default="fp32,bf16,fp16",
    callback=_parse_precisions,
    help="Which ones, comma separated.",
)
@click.option("--repeat", type=_COUNT, default=2, help="Runs after a first; the best counts.")
@click.option("--json", "target", type=click.Path(path_type=Path), help="File for all numbers.")
def main(target: Path | None, **wishes: Any) -> None:
    """Print one row for each model and precision, then one for each number of reader threads."""
    try:
        (device, *_) = choose_devices(wishes.pop("device"))
        if target is not None:
            make_folder(target.parent)
        _print_rows(device, wishes.pop("precisions"), wishes.pop("repeat"), target, wishes)
    except TilingSegError as error:
        raise click.ClickException(str(error)) from error


def _print_rows(
    device: str, precisions: list[str], repeat: int, target: Path | None, sides: dict[str, Any]
) -> None:
    gpu = torch.device(device).type == "cuda"
    name = torch.cuda.get_device_name(device) if gpu else "no GPU"
    click.echo(f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        place = Path(folder)
        unet31 = place / "unet31.safetensors"
        torch.manual_seed(0)
        save_model(unet31, build_network(UNET31), UNET31)
        options = RunOptions(
            device=device,
            engine="torch",
            outputs=OutputOptions(formats=("cog",)),
            tiling=TilingOptions(tile_size_px=sides["tile"]),
        )

        def row(label: str, scene: Path, wanted: RunOptions, bare: Bare | None = None) -> Bare:
            found, numbers = measure(scene, place / "out", wanted, repeat, bare)
            numbers = {"gpu": name, "row": label, **numbers}
            rows.append(numbers)
            click.echo(_line(numbers))
            if target is not None:
                target.write_text(json.dumps(rows, indent=1), encoding="utf-8")
            return found

        click.echo(_HEAD)
        for model, label in ((DEFAULT_MODEL, "bundled"), (str(unet31), "31 M U-Net")):
            for precision in precisions:
                side = sides["small_px"] if model == DEFAULT_MODEL else sides["large_px"]
                if precision == "fp32" and model != DEFAULT_MODEL:
                    side = sides["fp32_px"]
                scene = write_scene(place / f"{side}.tif", side)
                wanted = replace(options, model=model, precision=precision)
                row(f"{label} {precision}", scene, wanted)
        if side := sides["deflate_px"]:
            scene, bare = write_scene(place / "deflate.tif", side, compress="deflate"), None
            precision = precisions[-1]
            for count in N_READERS:
                wanted = replace(options, precision=precision, workers=count)
                bare = row(f"DEFLATE, {count} readers", scene, wanted, bare)


def measure(
    scene: Path, out: Path, options: RunOptions, repeat: int, bare: Bare | None = None
) -> tuple[Bare, dict[str, Any]]:
    """Measure the network alone, then runs of a scene.

    Args:
        scene: what is inferred.
        out: folder for the results; removed afterwards.
        options: model, device and precision.
        repeat: runs after the first.
        bare: what the network alone takes, where it is known.

    Returns:
        The network alone, and all numbers by name.
    """
    job, _ = prepare_in(str(scene), out, options)
    job.reader.close()
    is_new, bare = bare is None, bare or bare_passes(job)
    exports = [False] * repeat + [is_new]
    runs = [_run(scene, out, options, exports=it) for it in exports]
    best = min(runs[1:], key=lambda run: run.wall_s)
    plan = job.plan
    tile_px = plan.grid.tile_shape[0] * plan.grid.tile_shape[1]
    n_tiles = sum(plan.count_tiles(region) for region in plan.regions())
    scene_px, inferred_px, batch_px = plan.extent.area, n_tiles * tile_px, bare.n_tiles * tile_px
    rate = scene_px / best.wall_s / 1e6
    whole, core = batch_px / bare.whole_s / 1e6, batch_px / bare.core_s / 1e6
    gsd_m, device_s = plan.scene.georef.gsd_m, best.stages.get("device")
    return bare, {
        "mpx_s": rate,
        "km2_h": None if gsd_m is None else rate * gsd_m**2 * 3600,
        "whole_mpx_s": whole,
        "core_mpx_s": core,
        "share_scene": rate / whole,
        "share_inferred": rate * inferred_px / scene_px / core,
        "idle": None if device_s is None else 1 - device_s / best.wall_s,
        "first_run_s": runs[0].wall_s,
        "all_s": [run.wall_s for run in runs],
        "scene_px": [plan.scene.height, plan.scene.width],
        "work": inferred_px / scene_px,
        "readers": job.workers,
        "tiling": to_json(plan.tiling),
        **asdict(bare),
        **asdict(best),
        "export_s": runs[-1].export_s,
    }


def bare_passes(job: Job) -> Bare:
    """Time forward passes of a job's network over the batch that most of its passes have."""
    plan, model, device = job.plan, job.model, torch.device(job.devices[0])
    module = convert_conv2d_weight_memory_format(
        deepcopy(model.module).to(device), torch.channels_last
    )
    n_tiles = min(plan.tiling.batch_size, plan.tiling.region_tiles, plan.grid.n_cols)
    tile = plan.grid.tile(plan.grid.n_rows // 2, plan.grid.n_cols // 2)
    shape = n_tiles, len(model.spec.bands), *plan.grid.tile_shape
    pixels = torch.randn(shape, device=device)
    part = tile.core.slices_in(tile.window)
    with torch.inference_mode(), ExitStack() as settings:
        if device.type == "cuda":
            settings.enter_context(STEADY_KERNELS)
        if plan.model.precision != "fp32":
            dtype = PRECISIONS[plan.model.precision]
            settings.enter_context(torch.autocast(device.type, dtype=dtype))
        whole_s = seconds_of(lambda: module(pixels), device)
        core_s = seconds_of(lambda: core_logits(module, pixels, part), device)
        graph = None
        if device.type == "cuda":
            replay = _graph(lambda: core_logits(module, pixels, part))
            graph = seconds_of(replay, device) / core_s
    return Bare(whole_s=whole_s, core_s=core_s, graph=graph, n_tiles=n_tiles)


def seconds_of(task: Callable[[], object], device: torch.device) -> float:
    """Return the mean time of a task on a device, by the device's own clock, seconds."""
    gpu = device.type == "cuda"
    task()  # loads the kernels
    if gpu:
        torch.cuda.synchronize(device)
        begun, ended = (
            torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch's own
            for _ in range(2)
        )
        begun.record()
    count, start = 0, time.perf_counter()
    while count < 3 or time.perf_counter() - start < LEAST_S:
        task()
        count += 1
        if gpu and count % 4 == 0:  # else all would be asked for before any is done
            torch.cuda.synchronize(device)
    if not gpu:
        return (time.perf_counter() - start) / count
    ended.record()
    torch.cuda.synchronize(device)
    return float(begun.elapsed_time(ended)) / 1000 / count


def _graph(task: Callable[[], object]) -> Callable[[], None]:
    """Take down what a task asks of the GPU; the result asks for all of it at once."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        task()
    return graph.replay


def _run(scene: Path, out: Path, options: RunOptions, *, exports: bool) -> Measured:
    """Do one scene as `tilingseg run` does, and time its parts."""
    job, folder = prepare_in(str(scene), out, options)
    device = torch.device(job.devices[0])
    folder.make()
    store = open_store(job, folder, options)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    with _utilisation() as seen:
        start = time.perf_counter()
        infer_regions(job, store, silent)
        wall_s = time.perf_counter() - start
    stages = Counter[str]()
    for region in store.completed().values():
        stages.update(dict(region.seconds))
    peak = torch.cuda.max_memory_reserved(device) if device.type == "cuda" else 0
    start = time.perf_counter()
    if exports:
        publish(store, folder, options.outputs, Before(request={}))
    export_s = time.perf_counter() - start if exports else None
    shutil.rmtree(out)
    return Measured(
        wall_s=wall_s, export_s=export_s, stages=dict(stages), busy=seen(), peak_bytes=peak
    )


@contextmanager
def _utilisation() -> Iterator[Callable[[], float | None]]:
    """Let `nvidia-smi` look at the GPU while inside; give its mean utilisation, 0…1, afterwards."""
    if shutil.which("nvidia-smi") is None:
        yield lambda: None
        return
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    with subprocess.Popen([*command, "-lms", "100"], stdout=subprocess.PIPE, text=True) as looking:
        text: list[str] = []

        def mean() -> float | None:
            values = [int(line) for line in "".join(text).split() if line.isdigit()]
            return sum(values) / len(values) / 100 if values else None

        try:
            yield mean
        finally:
            looking.terminate()
            text.append(looking.communicate()[0])


def write_scene(path: Path, side: int, compress: str | None = None) -> Path:
    """Write a square GeoTIFF of coloured noise with 0.5 m pixels, unless it is there.

    Args:
        path: file to write.
        side: its side, px.
        compress: of its blocks; None: as they are.
    """
    if path.exists():
        return path
    rng = np.random.default_rng(0)
    fields = rng.integers(40, 200, (3, BLOCK_PX // 32, -(-side // 32)), dtype=np.uint8)
    strip = fields.repeat(32, axis=1).repeat(32, axis=2)[:, :, :side]
    strip += rng.integers(0, 16, strip.shape, dtype=np.uint8)
    profile: dict[str, Any] = {
        "driver": "GTiff", "height": side, "width": side, "count": 3, "dtype": "uint8",
        "tiled": True, "blockxsize": BLOCK_PX, "blockysize": BLOCK_PX, "interleave": "pixel",
        "photometric": "RGB", "crs": "EPSG:32633", "BIGTIFF": "IF_SAFER",
        "transform": Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000),
    }  # fmt: skip
    if compress is not None:
        profile |= {"compress": compress, "num_threads": "all_cpus"}
    with rasterio.open(path, "w", **profile) as dataset:
        for row in range(0, side, BLOCK_PX):
            height = min(BLOCK_PX, side - row)
            moved = np.roll(strip[:, :height], row, axis=2)
            dataset.write(moved, window=((row, row + height), (0, side)))
    return path


_HEAD = (
    f"{'':<20}{'Mpx/s':>8}{'km²/h':>9}{'whole':>8}{'share':>7}{'core':>8}{'share':>7}{'idle':>6}"
    f"{'busy':>6}{'graph':>7}{'work':>6}{'tile':>6}{'batch':>6}{'GB':>6}{'export s':>9}"
)


def _line(row: dict[str, Any]) -> str:
    def text(key: str, digits: int) -> str:
        return "–" if row[key] is None else f"{row[key]:,.{digits}f}"

    return (
        f"{row['row']:<20}{text('mpx_s', 1):>8}{text('km2_h', 0):>9}{text('whole_mpx_s', 1):>8}"
        f"{text('share_scene', 2):>7}{text('core_mpx_s', 1):>8}{text('share_inferred', 2):>7}"
        f"{text('idle', 2):>6}{text('busy', 2):>6}{text('graph', 2):>7}{text('work', 2):>6}"
        f"{row['tiling']['grid']['tile_size_px']:>6}{row['n_tiles']:>6}"
        f"{row['peak_bytes'] / 1e9:>6.1f}{text('export_s', 1):>9}"
    )


if __name__ == "__main__":
    main()
