"""One contender of the bench as one process; arguments: name, scene, model, out, tile, overlap.

Peers do what their documentation shows for a raster: they hold the scene and the result in memory
and run the network as PyTorch builds it. `tilingseg` and `exact` are this package, blended with the
same tiles and by default, in PyTorch; `openvino` is `exact` in OpenVINO; `default` and `int8` take
the engine that `auto` takes. `forward` is the network as the package runs it in PyTorch, over as
many tiles as `tilingseg`, and `bare` over the scene without overlap: nothing is around them.
`identity` is a network that does nothing.

What a contender takes once everything is imported and the network is loaded, it writes beside its
result: `work.json` holds wall and processor seconds.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from dataclasses import replace
from importlib import import_module
from importlib.metadata import distribution
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
import torch
from safetensors.torch import load_model as load_weights

import tilingseg
from tilingseg import flow  # noqa: F401  loaded now, so that it does not count as work
from tilingseg.job import prepare
from tilingseg.model import load
from tilingseg.output_folder import OutputOptions
from tilingseg.records import Scaling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from tilingseg.model.spec import ModelSpec

BATCH_SIZE = 4
MASKS = OutputOptions(formats=("cog",))


def main() -> None:
    """Run the contender that the command line names."""
    name, scene, model, out, tile, overlap = sys.argv[1:]
    Path(out).mkdir()
    try:
        work = CONTENDERS[name](scene, model, Path(out), int(tile), int(overlap))
        next(work)  # loads what it needs
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        for _ in work:
            pass
    except tilingseg.TilingSegError as error:
        sys.exit(f"{name}: {error}")
    seconds = {
        "wall_s": time.perf_counter() - wall_s,
        "cpu_s": time.process_time() - cpu_s,
    }
    (Path(out) / "work.json").write_text(json.dumps(seconds), encoding="utf-8")


def blended(scene: str, model: str, out: Path, tile: int, overlap: int) -> Iterator[None]:
    """This package with the tiles of its peers."""
    yield
    tilingseg.run(scene, out / "run", options=_options(model, tile, overlap))


def exact(scene: str, model: str, out: Path, tile: int, overlap: int) -> Iterator[None]:
    """This package with tiles of its own choice, stitched exactly, in PyTorch."""
    yield
    options = tilingseg.RunOptions(model=model, outputs=MASKS, engine="torch")
    tilingseg.run(scene, out / "run", options=options)


def openvino(scene: str, model: str, out: Path, tile: int, overlap: int) -> Iterator[None]:
    """This package with tiles of its own choice, stitched exactly, in OpenVINO."""
    yield
    options = tilingseg.RunOptions(model=model, outputs=MASKS, engine="openvino")
    tilingseg.run(scene, out / "run", options=options)


def default(scene: str, model: str, out: Path, tile: int, overlap: int) -> Iterator[None]:
    """This package as it is."""
    yield
    tilingseg.run(scene, out / "run", options=tilingseg.RunOptions(model=model, outputs=MASKS))


def int8(scene: str, model: str, out: Path, tile: int, overlap: int) -> Iterator[None]:
    """This package in int8."""
    yield
    options = tilingseg.RunOptions(model=model, outputs=MASKS, precision="int8")
    tilingseg.run(scene, out / "run", options=options)


def identity(scene: str, model: str, out: Path, tile: int, overlap: int) -> Iterator[None]:
    """This package around a network that gives its input back, one class a band."""
    builders = dict(load.NETWORKS) | {"identity": lambda *_: torch.nn.Identity()}
    load.NETWORKS = MappingProxyType(builders)
    fields: dict[str, Any] = {
        "name": "identity", "network": "identity", "network_options": (),
        "classes": ("a", "b", "c"), "thresholds": (0.6,) * 3,
    }  # fmt: skip
    spec = replace(load.load_model(model).spec, **fields)
    file = out / "identity.safetensors"
    load.save_model(file, torch.nn.Identity(), spec)
    yield
    options = tilingseg.RunOptions(model=file, outputs=MASKS, engine="torch")
    tilingseg.run(scene, out / "run", options=options)


def decode(scene: str, model: str, out: Path, tile: int, overlap: int) -> Iterator[None]:
    """Read the scene block by block and do nothing with it."""
    yield
    with rasterio.open(scene) as dataset:
        for _, window in dataset.block_windows(1):
            dataset.read(window=window)


def forward(scene: str, model: str, out: Path, tile: int, overlap: int) -> Iterator[None]:
    """The network alone, over the tiles of `blended`."""
    job = prepare(scene, _options(model, tile, overlap))
    return _passes(job, tile, len(job.plan.grid))


def bare(scene: str, model: str, out: Path, tile: int, overlap: int) -> Iterator[None]:
    """The network alone, over the scene without overlap."""
    job = prepare(scene, _options(model, tile, 0))
    return _passes(job, tile, len(job.plan.grid))


def _passes(job: Any, tile: int, count: int) -> Iterator[None]:
    engine = job.engine("cpu", Scaling(low=(0.0,) * 3, high=(255.0,) * 3, source=""))
    whole = slice(0, tile), slice(0, tile)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, tile, tile), dtype=np.uint8)
    yield
    for _ in range(count):
        engine.probabilities(pixels, np.ones((1, tile, tile), dtype=bool), whole)


def monai(scene: str, model: str, out: Path, tile: int, overlap: int) -> Iterator[None]:
    """MONAI's sliding window over the scene in memory."""
    infer = import_module("monai.inferers").SlidingWindowInferer(
        roi_size=(tile, tile), sw_batch_size=BATCH_SIZE, overlap=overlap / tile, mode="gaussian"
    )
    spec, module = _network(model)
    yield
    batch, profile = _read(scene, spec)
    with torch.inference_mode():
        probability = infer(torch.from_numpy(batch)[None], module)[0].sigmoid().numpy()
    _write(out, probability, profile)


def tiler(scene: str, model: str, out: Path, tile: int, overlap: int) -> Iterator[None]:
    """The package `tiler`, over the scene in memory."""
    package: Any = import_module("tiler")
    spec, module = _network(model)
    yield
    batch, profile = _read(scene, spec)
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


def toolbelt(scene: str, model: str, out: Path, tile: int, overlap: int) -> Iterator[None]:
    """Slicer and merger of `pytorch-toolbelt`, over the scene in memory."""
    # The module alone: the package around it loads torchvision, which this has no use for.
    path = distribution("pytorch-toolbelt").locate_file("pytorch_toolbelt/inference/tiles.py")
    source = importlib.util.spec_from_file_location("toolbelt_tiles", str(path))
    assert source is not None
    assert source.loader is not None
    tiles: Any = importlib.util.module_from_spec(source)
    sys.modules["toolbelt_tiles"] = tiles
    source.loader.exec_module(tiles)
    spec, module = _network(model)
    yield
    batch, profile = _read(scene, spec)
    picture = np.moveaxis(batch, 0, -1)
    cut = tiles.ImageSlicer(picture.shape[:2], tile, tile - overlap, weight="pyramid")
    merger = tiles.TileMerger(cut.target_shape, 2, cut.weight)
    pieces = cut.split(picture)
    with torch.inference_mode():
        for start in range(0, len(pieces), BATCH_SIZE):
            now = slice(start, start + BATCH_SIZE)
            stack = torch.from_numpy(np.stack(pieces[now])).permute(0, 3, 1, 2).contiguous()
            merger.integrate_batch(module(stack).sigmoid(), cut.crops[now])
        merged = merger.merge_().permute(1, 2, 0).numpy()
    _write(out, np.moveaxis(cut.crop_to_orignal_size(merged), -1, 0), profile)


def patchly(scene: str, model: str, out: Path, tile: int, overlap: int) -> Iterator[None]:
    """Sampler and aggregator of `patchly`, over the scene in memory."""
    package: Any = import_module("patchly")
    spec, module = _network(model)
    yield
    batch, profile = _read(scene, spec)
    size, step = (tile, tile), (tile - overlap, tile - overlap)
    sampler = package.GridSampler(
        image=batch, spatial_size=batch.shape[1:], patch_size=size, step_size=step,
        spatial_first=False,
    )  # fmt: skip
    aggregator = package.Aggregator(
        sampler=sampler, output_size=(2, *batch.shape[1:]), weights="gaussian",
        spatial_first=False,
    )  # fmt: skip
    with torch.inference_mode():
        for pixels, place in sampler:
            found = module(torch.from_numpy(np.ascontiguousarray(pixels))[None]).sigmoid()[0]
            aggregator.append(found.numpy(), place)
    _write(out, np.asarray(aggregator.get_output()), profile)


CONTENDERS: dict[str, Callable[[str, str, Path, int, int], Iterator[None]]] = {
    "decode": decode,
    "identity": identity,
    "bare": bare,
    "forward": forward,
    "tilingseg": blended,
    "exact": exact,
    "openvino": openvino,
    "default": default,
    "int8": int8,
    "monai": monai,
    "tiler": tiler,
    "toolbelt": toolbelt,
    "patchly": patchly,
}


def _network(model: str) -> tuple[ModelSpec, torch.nn.Module]:
    """Return the network as PyTorch builds it from its layers."""
    spec = load.load_model(model).spec
    module = load.build_network(spec)
    load_weights(module, model)
    return spec, module.eval()


def _options(model: str, tile: int, overlap: int) -> tilingseg.RunOptions:
    tiling = tilingseg.TilingOptions(tile_size_px=tile, overlap_px=overlap, blend="hann")
    return tilingseg.RunOptions(model=model, tiling=tiling, outputs=MASKS, engine="torch")


def _read(scene: str, spec: ModelSpec) -> tuple[NDArray[np.float32], dict[str, Any]]:
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
