"""RunPlan: everything a run will do, decided before a pixel is read.

A plan is data. It names the scene, the model, the one `TileGrid`, how tiles are stitched and which
regions the work is cut into; the same plan gives the same bits in one process or on a cluster.
`records.describe_changes` names what differs between the plan of an interrupted run and the one
asked for now. How the scene is cut is decided in `tiling`. Free of torch, rasterio and Zarr.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tilingseg.grid import Tile, TileGrid, Window
from tilingseg.records import Region, Scene, to_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tilingseg.model.spec import ModelSpec
    from tilingseg.tiling import Tiling

PROCESS_BYTES = 600_000_000
"""Python with torch and GDAL and its block cache, measured, bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUse:
    """A model and how this run uses it."""

    spec: ModelSpec
    """What travels with the weights."""
    sha256: str
    """Hash of the model file; of several, joined by `+`."""
    class_indexes: tuple[int, ...]
    """Classes that are kept, as positions in `spec.classes`."""
    thresholds: tuple[float, ...]
    """Probability from which a pixel belongs to the class, for every class of the spec."""
    device_type: str
    """`cpu`, `cuda` or `mps`: other devices round differently."""
    precision: str
    """`fp32`, `fp16`, `bf16` or `int8`."""
    engine: str
    """What runs the network: `torch`, `torch-compile`, `onnx` or `openvino`."""
    engine_version: str
    """Version of its package: others may round differently."""
    engine_reason: str = ""
    """Why this engine, one sentence; measured, so no part of what makes two plans equal."""
    tta: bool = False
    """Averaged over the eight orientations of every tile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """All that will be done; no pixel has been read for it."""

    software: str
    """Version of tilingseg: another one may give other bits."""
    scene: Scene
    """What is read."""
    model: ModelUse
    """What is inferred."""
    tiling: Tiling
    """How the scene is cut."""
    extent: Window
    """The part of the scene that is written: the bounds of the area of interest."""
    area_wkt: str | None = None
    """Area of interest in pixel coordinates (x = column, y = row) as WKT; None: the whole scene."""

    @property
    def grid(self) -> TileGrid:
        """The one arrangement of tiles."""
        return self.tiling.grid

    @property
    def chunk_px(self) -> int:
        """Side of a store chunk, px."""
        return self.tiling.chunk_tiles * self.grid.stride_px

    @property
    def region_px(self) -> int:
        """Side of a region's core, px; less at the right and bottom edge."""
        return self.tiling.region_tiles * self.grid.stride_px

    @property
    def n_region_rows(self) -> int:
        """Rows of regions in the whole scene."""
        return -(-self.grid.n_rows // self.tiling.region_tiles)

    @property
    def n_region_cols(self) -> int:
        """Columns of regions in the whole scene."""
        return -(-self.grid.n_cols // self.tiling.region_tiles)

    def region(self, index: int) -> Region:
        """Return one region of the scene by its row-major index."""
        row, col = divmod(index, self.n_region_cols)
        rows = _region_stretch(row, self.region_px, self.n_region_rows, self.grid.height)
        cols = _region_stretch(col, self.region_px, self.n_region_cols, self.grid.width)
        core = Window(row=rows[0], col=cols[0], height=rows[1] - rows[0], width=cols[1] - cols[0])
        return Region(index=index, core=core)

    @property
    def region_ranges(self) -> tuple[range, range]:
        """Rows and columns of the regions that touch the extent."""
        extent, find = self.extent, self._region_range
        rows = find(extent.row, extent.row_stop, self.n_region_rows)
        return rows, find(extent.col, extent.col_stop, self.n_region_cols)

    def regions(self) -> Iterator[Region]:
        """Yield the regions that touch the extent, in row-major order."""
        return (self.region(index) for index in self.region_indexes())

    def region_indexes(self) -> Iterator[int]:
        """Yield the indexes of the same regions: a hundred times as fast."""
        (rows, cols), n_cols = self.region_ranges, self.n_region_cols
        return (row * n_cols + col for row in rows for col in cols)

    @property
    def n_regions(self) -> int:
        """Regions that touch the extent."""
        return len(self.region_ranges[0]) * len(self.region_ranges[1])

    def tile_rows(self, region: Region) -> Iterator[list[Tile]]:
        """Yield the tiles that a region needs, row by row from the top, each from the left.

        Exact stitching needs the tiles whose cores make up the region, blending all that reach in.
        """
        rows, cols = self._tiles_of(region)
        for row in rows:
            yield [self.grid.tile(row, col) for col in cols]

    def count_tiles(self, region: Region) -> int:
        """Return how many tiles a region needs."""
        rows, cols = self._tiles_of(region)
        return len(rows) * len(cols)

    def _tiles_of(self, region: Region) -> tuple[range, range]:
        core, grid = region.core, self.grid
        if self.tiling.stitching == "exact":
            return (
                _core_range(core.row, core.row_stop, grid.stride_px, grid.n_rows),
                _core_range(core.col, core.col_stop, grid.stride_px, grid.n_cols),
            )
        return (
            grid.rows_touching(core.row, core.row_stop),
            grid.cols_touching(core.col, core.col_stop),
        )

    def _region_range(self, start: int, stop: int, count: int) -> range:
        last = min(count - 1, (stop - 1) // self.region_px)
        return range(min(count - 1, start // self.region_px), last + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a run will need."""

    inferred_ratio: float
    """Pixels that go through the network for each pixel of the extent."""
    memory_bytes: int
    """Peak memory of the process, bytes."""
    device_bytes: int
    """Peak memory of each GPU, bytes; 0 where the network runs in the process's own."""
    seconds: float
    """Time in the network, seconds."""


def estimate_run(plan: RunPlan, forward_s: float, workers: int, n_devices: int = 1) -> Estimate:
    """Estimate memory and time of a plan.

    Args:
        plan: what will be done.
        forward_s: measured time of one forward pass over a full batch, seconds.
        workers: reader threads of each device.
        n_devices: devices that share the regions; several of `cpu` are one processor.
    """
    grid, tiling = plan.grid, plan.tiling
    n_tiles = sum(plan.count_tiles(region) for region in plan.regions())
    height, width = grid.tile_shape
    n_classes, n_bands = len(plan.model.spec.classes), len(plan.scene.bands)
    item_bytes = 4 if plan.scene.dtype == "float32" else int("16" in plan.scene.dtype) + 1
    on_gpu = plan.model.device_type == "cuda"
    n_read = (workers + tiling.batch_size) * (1 + on_gpu) + tiling.batch_size
    read_bytes = n_read * height * width * (n_bands * item_bytes + 2)
    band_px = min(height, plan.extent.height) * min(plan.region_px, plan.extent.width)
    band_bytes = band_px * (3 * 4 * n_classes + 2)
    network_bytes = tiling.forward_bytes + band_bytes
    worker_bytes = read_bytes + (0 if on_gpu else network_bytes)
    n_at_once = 1 if plan.model.device_type == "cpu" else n_devices
    return Estimate(
        inferred_ratio=n_tiles * height * width / plan.extent.area,
        memory_bytes=PROCESS_BYTES + n_devices * worker_bytes,
        device_bytes=network_bytes if on_gpu else 0,
        seconds=n_tiles / tiling.batch_size * forward_s / n_at_once,
    )


def plan_identity(plan: RunPlan) -> dict[str, Any]:
    """Return the plan as JSON types: two runs with the same identity give the same bits."""
    identity = to_json(plan)
    assert isinstance(identity, dict)
    del identity["model"]["engine_reason"], identity["tiling"]["reasons"]
    return identity


def _core_range(start: int, stop: int, stride: int, count: int) -> range:
    return range(start // stride, min(count, -(-stop // stride)))


def _region_stretch(index: int, size: int, count: int, length: int) -> tuple[int, int]:
    return index * size, length if index == count - 1 else (index + 1) * size
