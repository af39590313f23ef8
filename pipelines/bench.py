"""Measure whole processes on one scene: `python pipelines/bench.py --size 4096`.

Makes a scene and a model with random weights, then runs each contender as a process of its own, in
turns so that a busy machine troubles all of them alike, and prints the medians in one table. The
contenders do the same work: read the GeoTIFF, infer every tile with the same weights, tile size and
overlap, write a class mask. What they do is in `bench_contenders`; peers come with
`pip install 'tilingseg[bench]'`, and those that are missing are left out. `--contenders` names
those that run, `openvino` and `int8` among them, which do not run unasked.

Processor seconds are the honest column on a machine that others use too: `cpu s` of the whole
process, `work s` of what follows imports and loading. Ratios are to `exact`. The last columns tell
what follows imports and loading, by the clock and by the processor, and the peak of memory.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
import numpy as np
import rasterio
import torch
from affine import Affine

from tilingseg.errors import TilingSegError
from tilingseg.model.load import build_network, load_model, save_model
from tilingseg.model.ranges import observe_ranges
from tilingseg.model.spec import ModelSpec

CONTENDERS = (
    *("bare", "forward", "tilingseg", "exact", "default"),
    *("monai", "tiler", "toolbelt", "patchly"),
)
"""Those that run unasked."""
FURTHER = ("openvino", "int8", "identity", "decode")
"""Those that run when they are named."""
NEEDED = {
    "monai": "monai", "tiler": "tiler", "toolbelt": "pytorch-toolbelt", "patchly": "patchly",
    "openvino": "openvino",
}  # fmt: skip
"""Packages that contenders need."""
SPEC = ModelSpec(
    name="bench",
    network="unet",
    network_options=(("features", (16, 32, 64, 128)),),
    bands=("red", "green", "blue"),
    classes=("building", "road"),
    thresholds=(0.5, 0.5),
    gsd_m=None,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
)
BLOCK_PX = 512
RANGES_PX = 256
"""Side of the noise from which the ranges for int8 are taken, px."""
INT8_DIFFERENCE = 0.02
"""What int8 may change in the probabilities of random weights, on average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one process took."""

    wall_s: float
    """From start to end, seconds."""
    cpu_s: float
    """Processor time of all its threads, seconds."""
    peak_bytes: int
    """Largest resident memory, bytes."""
    work_cpu_s: float
    """Processor time after imports and loading, seconds."""
    work_wall_s: float
    """Wall time of the same, seconds."""


def _parse_names(_context: click.Context, _option: click.Parameter, text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in CONTENDERS + FURTHER:
            known = ", ".join(CONTENDERS + FURTHER)
            raise click.BadParameter(f"there is no contender {name!r}; there are: {known}")
    return names


_COUNT = click.IntRange(1)


@click.command()
@click.option("--size", type=_COUNT, default=4096, help="Side of the scene, px.")
@click.option("--tile", type=_COUNT, default=512, help="Side of a tile, px.")
@click.option(
    "--overlap", type=click.IntRange(0), default=128, help="Pixels that neighbouring tiles share."
)
@click.option(
    "--repeat", type=_COUNT, default=3, help="Runs of each contender; the table shows medians."
)
@click.option("--threads", type=_COUNT, default=2, help="Processor threads for each network.")
@click.option(
    "--contenders",
    default=",".join(CONTENDERS),
    show_default=True,
    callback=_parse_names,
    metavar="A,B",
    help=f"Which ones; also {', '.join(FURTHER)}.",
)
@click.option(
    "--model",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A U-Net. [default: a small one, random weights]",
)
def main(size: int, repeat: int, threads: int, contenders: list[str], **wishes: Any) -> None:
    """Compare tilingseg with its peers on one synthetic scene."""
    tile, overlap = wishes["tile"], wishes["overlap"]
    names = [name for name in contenders if _is_there(name)]
    costs: dict[str, list[Cost]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        scene, model = Path(folder) / "scene.tif", Path(folder) / "model.safetensors"
        try:
            if wishes["model"] is None:
                write_model(model)
            else:
                model = wishes["model"]
                load_model(model)
            write_scene(scene, size)
            for turn in range(repeat):
                for name in names:
                    out = Path(folder) / f"{name}_{turn}"
                    cost = measure([name, scene, model, out, tile, overlap], threads)
                    costs[name].append(cost)
                    click.echo(f"{name}: {cost.cpu_s:.1f} s of processor time", err=True)
        except TilingSegError as error:
            raise click.ClickException(str(error)) from error
    click.echo(f"{size} × {size} px, tile {tile} px, overlap {overlap} px, {threads} threads")
    click.echo(table({name: _median(runs) for name, runs in costs.items()}, size))


def measure(arguments: list[object], threads: int) -> Cost:
    """Run one contender and wait for it.

    Args:
        arguments: of `bench_contenders`.
        threads: OpenMP threads of the process.

    Raises:
        TilingSegError: it failed.
    """
    script = str(Path(__file__).with_name("bench_contenders.py"))
    command = [sys.executable, "-W", "ignore", script, *map(str, arguments)]
    # Waiting threads that spin would count as work of whoever waits most.
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
    start = time.perf_counter()
    process = os.posix_spawn(sys.executable, command, environment)
    _, status, usage = os.wait4(process, 0)
    if status:
        raise TilingSegError(f"contender {arguments[0]} failed with exit code {status >> 8}")
    work = json.loads((Path(str(arguments[3])) / "work.json").read_text(encoding="utf-8"))
    return Cost(
        wall_s=time.perf_counter() - start,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_bytes=usage.ru_maxrss * 1024,
        work_cpu_s=work["cpu_s"],
        work_wall_s=work["wall_s"],
    )


def table(costs: dict[str, Cost], size: int) -> str:
    """Return the costs as lines of text, ratios to `exact` where it was measured.

    Args:
        costs: by contender.
        size: side of the scene, px.
    """
    own = costs.get("exact")
    lines = [
        f"{'':<11}{'wall s':>8}{'cpu s':>8}{'ratio':>7}{'work s':>8}{'ratio':>7}"
        f"{'Mpx/s':>8}{'Mpx/cpu s':>11}{'peak MB':>9}"
    ]
    for name, cost in costs.items():
        whole = "" if own is None else f"{cost.cpu_s / own.cpu_s:.2f}"
        work = "" if own is None else f"{cost.work_cpu_s / own.work_cpu_s:.2f}"
        lines.append(
            f"{name:<11}{cost.wall_s:>8.1f}{cost.cpu_s:>8.1f}{whole:>7}{cost.work_cpu_s:>8.1f}"
            f"{work:>7}{size**2 / cost.work_wall_s / 1e6:>8.2f}"
            f"{size**2 / cost.work_cpu_s / 1e6:>11.2f}{cost.peak_bytes / 1e6:>9.0f}"
        )
    return "\n".join(lines)


def _is_there(name: str) -> bool:
    """Tell whether a contender can run, and why not."""
    package = NEEDED.get(name)
    try:
        if package is not None:
            version(package)
    except PackageNotFoundError:
        click.echo(f"{name} is left out: {package} is not installed", err=True)
        return False
    return True


def write_scene(path: Path, size: int, seed: int = 0) -> None:
    """Write a GeoTIFF of coloured noise with structure at two scales, block row by block row.

    Args:
        path: file to write.
        size: its side, px.
        seed: of the noise.
    """
    rng = np.random.default_rng(seed)
    profile = {
        "driver": "GTiff", "height": size, "width": size, "count": 3, "dtype": "uint8",
        "tiled": True, "blockxsize": BLOCK_PX, "blockysize": BLOCK_PX, "compress": "deflate",
        "interleave": "pixel", "photometric": "RGB", "crs": "EPSG:32633", "BIGTIFF": "IF_SAFER",
        "transform": Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000),
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as dataset:
        for row in range(0, size, BLOCK_PX):
            height = min(BLOCK_PX, size - row)
            fields = rng.integers(40, 200, (3, -(-height // 32), -(-size // 32)), dtype=np.uint8)
            texture = rng.integers(0, 16, (height, size), dtype=np.uint8)
            coarse = fields.repeat(32, axis=1).repeat(32, axis=2)[:, :height, :size]
            dataset.write(coarse + texture, window=((row, row + height), (0, size)))


def write_model(path: Path, spec: ModelSpec = SPEC, seed: int = 0) -> None:
    """Write a model file with random weights, and with the ranges that int8 needs.

    Args:
        path: file to write.
        spec: what it is.
        seed: of the weights.
    """
    torch.manual_seed(seed)
    module = build_network(spec)
    for name, statistic in module.named_buffers():
        # as after training: folding them away must not be free
        if name.endswith("running_var"):
            statistic.uniform_(0.5, 2.0)
    window = torch.randn(1, len(spec.bands), RANGES_PX, RANGES_PX)
    ranges = observe_ranges(module.eval(), spec, [window])
    layers = tuple((layer, *ends) for layer, ends in sorted(ranges.items()))
    spec = replace(spec, activation_ranges=layers, int8_difference=INT8_DIFFERENCE)
    save_model(path, module, spec)


def _median(runs: list[Cost]) -> Cost:
    return Cost(
        wall_s=statistics.median(run.wall_s for run in runs),
        cpu_s=statistics.median(run.cpu_s for run in runs),
        peak_bytes=int(statistics.median(run.peak_bytes for run in runs)),
        work_cpu_s=statistics.median(run.work_cpu_s for run in runs),
        work_wall_s=statistics.median(run.work_wall_s for run in runs),
    )


if __name__ == "__main__":
    main()
