"""Segment rasters too large for memory: tiles in, seam-free masks and polygons out.

The flow, with the module that owns each step::

    uri ─ readers.open_scene ─▶ SceneReader ─ plan.plan_run ─▶ RunPlan (one TileGrid, its Regions)
    Region ─ infer ─▶ tiles, batches, probabilities ─ stitch ─▶ mask and probability rows
           ─ store.WorkStore ─▶ Zarr, one owner a chunk, completion records
    WorkStore ─ export ─▶ COG, Zarr, preview
              ─ vectorize ─▶ polygons, centrelines ─ features ─▶ GeoJSON, GPKG, FlatGeobuf, Parquet

Reading order: `grid` (the drawing at its top), `records`, `flow` (the whole product in one page),
then the stage you care about and its mirror in `tests/`. Stages never import stages; they meet in
`grid` and `records`. `tests/test_layers.py` holds the allowed imports.

Names are imported on first use, so that `tilingseg --help` does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tilingseg.errors import TilingSegError
    from tilingseg.flow import run
    from tilingseg.job import RunOptions, prepare
    from tilingseg.model.load import load_model, save_model
    from tilingseg.model.spec import ModelSpec
    from tilingseg.readers import open_scene
    from tilingseg.records import RunReport
    from tilingseg.tiling import TilingOptions

__version__ = "0.1.0"

_HOMES = {
    "ModelSpec": "tilingseg.model.spec",
    "RunOptions": "tilingseg.job",
    "RunReport": "tilingseg.records",
    "TilingOptions": "tilingseg.tiling",
    "TilingSegError": "tilingseg.errors",
    "load_model": "tilingseg.model.load",
    "open_scene": "tilingseg.readers",
    "prepare": "tilingseg.job",
    "run": "tilingseg.flow",
    "save_model": "tilingseg.model.load",
}

__all__ = [
    "ModelSpec",
    "RunOptions",
    "RunReport",
    "TilingOptions",
    "TilingSegError",
    "load_model",
    "open_scene",
    "prepare",
    "run",
    "save_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tilingseg' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
