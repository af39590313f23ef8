"""Inference: the tiles of a region are read ahead, batched and sent through the network.

`tiles` reads and batches. `engine` runs the network in PyTorch on one device, `graph_engine` in one
of the other `runtimes`; `choice` says which, `parts` what they compile. `mean` averages networks
and orientations, `halving` survives a device whose memory is short, `devices` turns wishes into
devices, `upload` moves pixels there, `memory` keeps freed memory at hand, `tally` counts.
"""

from tilingseg.infer.choice import (
    ENGINES,
    EngineChoice,
    choose_engine,
    int8_difference,
    make_engine,
    measure_speed,
)
from tilingseg.infer.devices import (
    choose_devices,
    choose_precision,
    choose_readers,
    device_bytes,
    n_threads,
    threads_divided,
)
from tilingseg.infer.engine import Engine, TorchEngine
from tilingseg.infer.exports import write_exports
from tilingseg.infer.halving import HalvingEngine
from tilingseg.infer.mean import D4, UPRIGHT, MeanEngine
from tilingseg.infer.memory import FrugalEngine, freed_memory_kept, resident_bytes
from tilingseg.infer.parts import common_parts
from tilingseg.infer.runtimes import keeps_memory
from tilingseg.infer.tally import Tally
from tilingseg.infer.tiles import ReadAhead, Reading, TileSource, predict

__all__ = [
    "D4",
    "ENGINES",
    "UPRIGHT",
    "Engine",
    "EngineChoice",
    "FrugalEngine",
    "HalvingEngine",
    "MeanEngine",
    "ReadAhead",
    "Reading",
    "Tally",
    "TileSource",
    "TorchEngine",
    "choose_devices",
    "choose_engine",
    "choose_precision",
    "choose_readers",
    "common_parts",
    "device_bytes",
    "freed_memory_kept",
    "int8_difference",
    "keeps_memory",
    "make_engine",
    "measure_speed",
    "n_threads",
    "predict",
    "resident_bytes",
    "threads_divided",
    "write_exports",
]
