"""Networks under one recipe: `python pipelines/compare.py recipe.toml --data DIR --out DIR`.

Trains every candidate with few and with many labelled windows (same data, loss, steps, seed),
resumes what was interrupted, and prints one table: IoU on the held-out sources, weights, memory,
speed, halo, and how strongly the up-sampling shows. Each training has a folder that is named after
all that it was told, so that a changed recipe is trained anew and never meets older results.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import torch
from tqdm import tqdm

from tilingseg.errors import TilingSegError, TrainingError
from tilingseg.model.deeplab import DeepLabOptions
from tilingseg.model.fcn import FcnOptions
from tilingseg.model.load import load_model
from tilingseg.model.normalize import normalize
from tilingseg.model.ripple import ripple
from tilingseg.model.unet import UNetOptions
from tilingseg.training.loop import LOG, train
from tilingseg.training.recipe import read_recipe
from tilingseg.training.samples import cut_window, unit_scaling
from tilingseg.training.sources import load_sources

if TYPE_CHECKING:
    from tilingseg.model.load import LoadedModel
    from tilingseg.training.recipe import NetworkOptions, TrainingRecipe

UNET = UNetOptions(features=(16, 32, 64, 128))
CANDIDATES: dict[str, NetworkOptions] = {
    "U-Net, resize + convolution": dataclasses.replace(UNET, upsampling="bilinear"),
    "U-Net, transposed convolution": UNET,
    "U-Net on folded pixels": dataclasses.replace(UNET, fold_px=2),
    "FCN-8s": FcnOptions(features=(16, 32, 64, 128, 352)),
    "DeepLab v3+": DeepLabOptions(features=(32, 64, 128, 160), n_context=128),
}
"""As many weights each as the small U-Net, about 1.9 million."""
_SPEED_PX = 512


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder of the data.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for results.")
@click.option("--windows", default="100,1000", help="Labelled windows, several after commas.")
@click.option("--threads", type=click.IntRange(min=1), help="Processor threads; default: all.")
def main(recipe: Path, data: Path, out: Path, windows: str, threads: int | None) -> None:
    """Train all candidates by one recipe and print the table."""
    try:
        base = read_recipe(recipe)
        if not any(source.split in ("validation", "blocks") for source in base.sources):
            raise TrainingError(
                f"{recipe} holds nothing out to compare networks by: give a source with split = "
                "'validation' or 'blocks'"
            )
        counts = [int(count) for count in windows.split(",")]
        rows = [_row(name, base, (data, out), counts, threads) for name in CANDIDATES]
    except (TilingSegError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    head = ["network", *(f"IoU, {count:,} windows" for count in counts)]
    head += ["weights, M", "memory, bytes a pixel", "Mpx a processor second", "halo, px", "ripple"]
    lines = [head, ["---"] * len(head), *rows]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    (out / "compare.md").write_text(table, encoding="utf-8")
    click.echo(table)


def _row(
    name: str,
    base: TrainingRecipe,
    folders: tuple[Path, Path],
    counts: list[int],
    threads: int | None,
) -> list[str]:
    data, out = folders
    scores = []
    for count in counts:
        recipe = dataclasses.replace(
            base,
            name="".join(c if c.isalnum() else "-" for c in name.lower()),
            network=CANDIDATES[name],
            schedule=dataclasses.replace(base.schedule, n_windows=count),
        )
        told = repr((recipe, str(data.resolve())))
        folder = out / f"{recipe.name}_{count}_{hashlib.sha256(told.encode()).hexdigest()[:8]}"
        with tqdm(unit="step", desc=f"{name}, {count} windows") as bar:

            def show(done: int, total: int, text: str, bar: Any = bar) -> None:
                bar.total = total
                bar.set_postfix_str(text, refresh=False)
                bar.update(done - bar.n)

            path = train(recipe, data, folder, resume=True, threads=threads, progress=show)
        with (folder / LOG).open(encoding="utf-8", newline="") as file:
            last = list(csv.DictReader(file))[-1]
        values = [float(value) for key, value in last.items() if key.startswith("iou ")]
        scores.append(f"{sum(values) / len(values):.3f}")
    model = load_model(path)
    return [name, *scores, *_measures(model, recipe, data)]


def _measures(model: LoadedModel, recipe: TrainingRecipe, data: Path) -> list[str]:
    """Return weights, memory, speed, halo and ripple as text."""
    spec, geometry = model.spec, model.geometry
    n_weights = sum(parameter.numel() for parameter in model.module.parameters())
    x = torch.rand((1, len(spec.bands), _SPEED_PX, _SPEED_PX))
    seconds = []
    with torch.inference_mode():
        for _ in range(4):
            start = time.process_time()
            model.module(x)
            seconds.append(time.process_time() - start)
    held_out = load_sources(recipe, data, "validation")[:8]
    windows = []
    for raster in held_out:
        middle = (raster.valid.shape[0] // 2, raster.valid.shape[1] // 2)
        pixels, valid, _ = cut_window(raster, middle, spec.tile_size_px, recipe.pixel_m)
        windows.append(normalize(pixels, valid, unit_scaling(len(spec.bands)), spec))
    return [
        f"{n_weights / 1e6:.2f}",
        f"{geometry.bytes_per_px:.0f}",
        f"{_SPEED_PX**2 / min(seconds) / 1e6:.2f}",
        "none" if geometry.halo_px is None else str(geometry.halo_px),
        f"{ripple(model.module, torch.cat(windows)):.1%}",
    ]


if __name__ == "__main__":
    main()
