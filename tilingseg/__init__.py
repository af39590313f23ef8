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
