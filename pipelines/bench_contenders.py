"""One contender of the bench as one process; arguments: name, scene, model, out, tile, overlap.

Each does what its documentation shows for a raster: `monai` and `tiler` hold the scene and the
result in memory, `tilingseg` and `exact` are this package, blended with the same tiles and by
default. `forward` is the network as the package runs it, over as many tiles, with nothing around.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
import torch

import tilingseg
from tilingseg.job import prepare
from tilingseg.output_folder import OutputOptions
from tilingseg.records import Scaling

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCH_SIZE = 4
MASKS = OutputOptions(formats=("cog",))


def main() -> None:
    """Run the contender that the command line names."""
    name, scene, model, out, tile, overlap = sys.argv[1:]
    Path(out).mkdir()
    contender = {
        "forward": forward, "tilingseg": blended, "exact": exact, "monai": monai, "tiler": tiler
    }[name]  # fmt: skip
    contender(scene, model, Path(out), int(tile), int(overlap))


def blended(scene: str, model: str, out: Path, tile: int, overlap: int) -> None:
    """This package with the tiles of its peers."""
    tilingseg.run(scene, out, options=_options(model, tile, overlap))


def exact(scene: str, model: str, out: Path, tile: int, overlap: int) -> None:
    """This package as it is by default: tiles of its own choice, stitched exactly."""
    tilingseg.run(scene, out, options=tilingseg.RunOptions(model=model, outputs=MASKS))


def forward(scene: str, model: str, out: Path, tile: int, overlap: int) -> None:
    """The network alone, over the tiles of `blended`."""
    job = prepare(scene, _options(model, tile, overlap))
    engine = job.engine("cpu", Scaling(low=(0.0,) * 3, high=(255.0,) * 3, source=""))
    whole = slice(0, tile), slice(0, tile)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, tile, tile), dtype=np.uint8)
    for _ in range(len(job.plan.grid)):
        engine.probabilities(pixels, np.ones((1, tile, tile), dtype=bool), whole)


def monai(scene: str, model: str, out: Path, tile: int, overlap: int) -> None:
    """MONAI's sliding window over the scene in memory."""
    module = tilingseg.load_model(model).module
    infer = import_module("monai.inferers").SlidingWindowInferer(
        roi_size=(tile, tile), sw_batch_size=BATCH_SIZE, overlap=overlap / tile, mode="gaussian"
    )
    batch, profile = _read(scene, model)
    with torch.inference_mode():
        probability = infer(torch.from_numpy(batch)[None], module)[0].sigmoid().numpy()
    _write(out, probability, profile)


def tiler(scene: str, model: str, out: Path, tile: int, overlap: int) -> None:
    """The package `tiler`, over the scene in memory."""
    package: Any = import_module("tiler")
    module = tilingseg.load_model(model).module
    batch, profile = _read(scene, model)
    cut = package.Tiler(
        data_shape=batch.shape, tile_shape=(3, tile, tile), overlap=(0, overlap, overlap),
        channel_dimension=0,
    )  # fmt: skip
    put = package.Tiler(
        data_shape=(2, *batch.shape[1:]), tile_shape=(2, tile, tile),
        overlap=(0, overlap, overlap), channel_dimension=0,
    )  # fmt: skip
    merger = package.Merger(put, window="hann")
    with torch.inference_mode():
        for index, tiles in cut(batch, batch_size=BATCH_SIZE):
            found = module(torch.from_numpy(tiles)).sigmoid().numpy()
            merger.add_batch(index, BATCH_SIZE, found)
    _write(out, merger.merge(unpad=True), profile)


def _options(model: str, tile: int, overlap: int) -> tilingseg.RunOptions:
    tiling = tilingseg.TilingOptions(tile_size_px=tile, overlap_px=overlap, blend="hann")
    return tilingseg.RunOptions(model=model, tiling=tiling, outputs=MASKS)


def _read(scene: str, model: str) -> tuple[NDArray[np.float32], dict[str, Any]]:
    spec = tilingseg.load_model(model).spec
    with rasterio.open(scene) as dataset:
        pixels, profile = dataset.read(), dict(dataset.profile)
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (spec.mean, spec.std))
    return (pixels.astype(np.float32) / 255 - mean) / std, profile


def _write(out: Path, probability: NDArray[np.float32], profile: dict[str, Any]) -> None:
    mask = np.where(probability.max(axis=0) >= 0.5, probability.argmax(axis=0) + 1, 0)
    with rasterio.open(
        out / "mask.tif", "w", **(profile | {"count": 1, "photometric": None})
    ) as dataset:
        dataset.write(mask.astype(np.uint8), 1)


if __name__ == "__main__":
    main()
