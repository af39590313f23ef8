"""Inference: the tiles of a region are read ahead, batched and sent through the network.

`tiles` reads and batches, `engine` runs the network on one device, `halving` survives a device
whose memory is short, `devices` turns wishes into devices, `memory` keeps freed memory at hand.
"""

from tilingseg.infer.devices import choose_devices, choose_precision
from tilingseg.infer.engine import Engine, TorchEngine
from tilingseg.infer.halving import HalvingEngine
from tilingseg.infer.memory import freed_memory_kept
from tilingseg.infer.tiles import Tally, TileSource, predict

__all__ = [
    "Engine",
    "HalvingEngine",
    "Tally",
    "TileSource",
    "TorchEngine",
    "choose_devices",
    "choose_precision",
    "freed_memory_kept",
    "predict",
]
