"""RunPlan: everything a run will do, decided before a pixel is read.

A plan is data. It names the scene, the model, the one `TileGrid`, how tiles are stitched and which
regions the work is cut into; the same plan gives the same bits in one process or on a cluster.
`records.describe_changes` names what differs between the plan of an interrupted run and the one
asked for now. Free of torch, rasterio and Zarr.

Tile size. The planner weighs what a tile costs for this scene, halos and borders included, against
the memory that it takes. Exact stitching reads 2H more than it writes along each axis: large tiles
make that cheap, and so do networks that need the halo for a share of their work only. Because both
count, scenes of any size from `SMALL_SCENE_PX` on get about the same tile and need the same memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from tilingseg.errors import PlanError
from tilingseg.grid import Tile, TileGrid, Window
from tilingseg.records import Region, Scene, to_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tilingseg.model.spec import Geometry, ModelSpec

Stitching = Literal["exact", "hann"]

EXACT = "the core of a tile equals inference on the whole scene"
REGION_PX = 4096
"""Side that a region is rounded to, px, at most: minutes of work on a CPU, megabytes of results."""
LEAST_REGION_PX = 1024
"""The same at least."""
N_REGIONS = 16
"""Regions that a smaller scene is cut into, about: what is lost with a kill is a share of it."""
CHUNK_PX = 1024
"""Side that a store chunk is rounded to, px."""
PROCESS_BYTES = 600_000_000
"""Python with torch and GDAL and its block cache, measured, bytes."""
FORWARD_FACTOR = 2.7
"""Peak memory of a forward pass over its activations alone, measured: kernels borrow, and the
allocator keeps what it has freed."""
CORE_FACTOR = 2.2
"""The same where only the core of a tile is computed to the end, measured."""
MAX_BATCH = 8
"""Tiles in one forward pass beyond which nothing is gained."""
TILE_COST_PX = 4000
"""What a tile costs besides its pixels, in pixels of a small network, measured."""
WORTH_MEMORY = 0.25
"""Power of a process's memory that its work is multiplied with: twice as much must save a sixth."""
BASE_BYTES = 400_000_000
"""What a process needs beside its forward passes, measured, bytes."""
SMALL_SCENE_PX = 4096**2
"""A smaller scene takes seconds: it gets small tiles, so that its memory is that of its parts."""
SMALL_PASS_BYTES = 70_000_000
"""What a pass over a small scene, or over several tiles, may use, bytes."""
CORE_SIZES_PX = range(256, 3073, 128)
"""Tile cores that the planner compares for exact stitching, px."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TilingOptions:
    """What the user may ask of the tiling; None: the planner decides."""

    tile_size_px: int | None = None
    """Side of a tile, px."""
    overlap_px: int | None = None
    """Pixels that neighbouring tiles share, px."""
    blend: Literal["auto", "exact", "hann"] = "auto"
    """How overlaps become one result; `auto`: exact where the network allows it."""
    batch_size: int | None = None
    """Tiles in one forward pass."""
    memory_bytes: int = 480_000_000
    """What one forward pass may use, bytes."""
    region_px: int | None = None
    """Side that a region is rounded to, px: the unit of work on a cluster and of resuming."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """How one scene is cut and put together again."""

    grid: TileGrid
    """The one arrangement of tiles."""
    stitching: Stitching
    """How tiles become one result."""
    reason: str
    """Why so, one sentence."""
    batch_size: int
    """Tiles in one forward pass."""
    forward_bytes: int
    """Estimated peak memory of one forward pass, bytes."""
    region_px: int
    """Side that a region is rounded to, px."""

    @property
    def chunk_tiles(self) -> int:
        """Tiles along each side of a store chunk."""
        return max(1, min(CHUNK_PX, self.region_px) // self.grid.stride_px)

    @property
    def region_tiles(self) -> int:
        """Tiles along each side of a region, a multiple of `chunk_tiles`."""
        chunk_px = self.chunk_tiles * self.grid.stride_px
        return self.chunk_tiles * max(1, round(self.region_px / chunk_px))


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


def plan_tiles(scene: Scene, geometry: Geometry, options: TilingOptions, size_px: int) -> Tiling:
    """Decide stitching, tile size and batch for one scene.

    Args:
        scene: the pixel grid that the model sees.
        geometry: halo, lattice and memory of the network.
        options: what the user asked for.
        size_px: tile size that the model proposes for blending, px.

    Raises:
        PlanError: the wishes contradict each other or the network, with what would work.
    """
    obstacle = _obstacle(scene, geometry, options)
    if obstacle is None:
        overlap = options.overlap_px
        if overlap is None:
            overlap = 2 * (geometry.halo_px or 0)
        size = options.tile_size_px or _cheapest_size(scene, geometry, options, overlap)
        if size <= overlap:  # the scene fits in one tile, nothing is shared
            overlap = 0
        return _tiling(_grid(scene, geometry, size, overlap), "exact", geometry, options)
    if options.blend == "exact":
        raise PlanError(f"exact stitching is impossible here: {obstacle}; use --blend hann")
    size = options.tile_size_px or -(-size_px // geometry.multiple_px) * geometry.multiple_px
    overlap = options.overlap_px
    if overlap is None:
        overlap = size // 4 // (2 * geometry.multiple_px) * (2 * geometry.multiple_px)
    tiling = _tiling(_grid(scene, geometry, size, overlap), "hann", geometry, options)
    return replace(tiling, reason=obstacle)


def _obstacle(scene: Scene, geometry: Geometry, options: TilingOptions) -> str | None:
    """Return why tiles are to be blended, or None where they can be stitched exactly."""
    if options.blend == "hann":
        return "blending was asked for"
    if geometry.halo_px is None:
        return geometry.reason or "this network cannot be stitched exactly"
    needed, overlap, size = 2 * geometry.halo_px, options.overlap_px, options.tile_size_px
    if overlap is not None and overlap < needed:
        return f"the overlap is {overlap} px and this network needs {needed} px"
    wanted = needed if overlap is None else overlap
    if size is not None and size <= wanted and size < max(scene.height, scene.width):
        return f"a tile of {size} px leaves no core beside an overlap of {wanted} px"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a run will need."""

    inferred_ratio: float
    """Pixels that go through the network for each pixel of the extent."""
    memory_bytes: int
    """Peak memory of the process, bytes."""
    seconds: float
    """Time in the network on one device, seconds."""


def estimate_run(plan: RunPlan, forward_s: float, workers: int) -> Estimate:
    """Estimate memory and time of a plan.

    Args:
        plan: what will be done.
        forward_s: measured time of one forward pass over a full batch, seconds.
        workers: reader threads.
    """
    grid, tiling = plan.grid, plan.tiling
    n_tiles = sum(plan.count_tiles(region) for region in plan.regions())
    height, width = grid.tile_shape
    n_classes, n_bands = len(plan.model.spec.classes), len(plan.scene.bands)
    item_bytes = 4 if plan.scene.dtype == "float32" else int("16" in plan.scene.dtype) + 1
    read_bytes = (workers + 2 * tiling.batch_size) * height * width * (n_bands * item_bytes + 2)
    band_px = min(height, plan.extent.height) * min(plan.region_px, plan.extent.width)
    band_bytes = band_px * (3 * 4 * n_classes + 2)
    return Estimate(
        inferred_ratio=n_tiles * height * width / plan.extent.area,
        memory_bytes=PROCESS_BYTES + tiling.forward_bytes + read_bytes + band_bytes,
        seconds=n_tiles / tiling.batch_size * forward_s,
    )


def plan_identity(plan: RunPlan) -> dict[str, Any]:
    """Return the plan as JSON types: two runs with the same identity give the same bits."""
    identity = to_json(plan)
    assert isinstance(identity, dict)
    del identity["model"]["engine_reason"]
    return identity


def _core_range(start: int, stop: int, stride: int, count: int) -> range:
    return range(start // stride, min(count, -(-stop // stride)))


def _region_stretch(index: int, size: int, count: int, length: int) -> tuple[int, int]:
    return index * size, length if index == count - 1 else (index + 1) * size


def _grid(scene: Scene, geometry: Geometry, size: int, overlap: int) -> TileGrid:
    return TileGrid(
        height=scene.height,
        width=scene.width,
        tile_size_px=size,
        overlap_px=overlap,
        multiple_px=geometry.multiple_px,
    )


def _cheapest_size(scene: Scene, geometry: Geometry, options: TilingOptions, overlap: int) -> int:
    """Return the tile size with the least price that the memory allows, px."""
    multiple, priced = geometry.multiple_px, []
    for core in CORE_SIZES_PX:
        size = -(-(core + overlap) // multiple) * multiple
        grid = _grid(scene, geometry, size, overlap)
        height, width = grid.tile_shape
        whole, used = height * width, min(core, height) * min(core, width)
        work = len(grid) * (whole + geometry.core_share * (used - whole) + TILE_COST_PX)
        forward_bytes = _forward_bytes(grid, geometry, exact=True)
        priced.append((work * (BASE_BYTES + forward_bytes) ** WORTH_MEMORY, size, forward_bytes))
    limits = [options.memory_bytes]
    if scene.height * scene.width < SMALL_SCENE_PX:
        limits.insert(0, min(SMALL_PASS_BYTES, options.memory_bytes))
    for limit in limits:
        if fitting := [(price, size) for price, size, needed in priced if needed <= limit]:
            return min(fitting)[1]
    return min(size for _, size, _ in priced)


def _forward_bytes(grid: TileGrid, geometry: Geometry, *, exact: bool) -> int:
    height, width = grid.tile_shape
    factor = CORE_FACTOR if exact and geometry.core_share else FORWARD_FACTOR
    return int(height * width * geometry.bytes_per_px * factor)


def _region_px(grid: TileGrid, stitching: Stitching, batch_size: int) -> int:
    """Return the side that a region is rounded to, px."""
    if stitching == "hann":  # tiles that reach over a border are inferred on both sides of it
        return REGION_PX
    side = math.isqrt(grid.height * grid.width // N_REGIONS)
    # a batch ends with its region
    return min(REGION_PX, max(side, LEAST_REGION_PX, batch_size * grid.stride_px))


def _tiling(
    grid: TileGrid, stitching: Stitching, geometry: Geometry, options: TilingOptions
) -> Tiling:
    tile_bytes = _forward_bytes(grid, geometry, exact=stitching == "exact")
    batch_size = options.batch_size
    if batch_size is None:
        batch_size = max(
            1, min(MAX_BATCH, min(SMALL_PASS_BYTES, options.memory_bytes) // tile_bytes, len(grid))
        )
    elif batch_size < 1:
        raise PlanError(f"batch size must be 1 or more, got {batch_size}")
    return Tiling(
        grid=grid,
        stitching=stitching,
        reason=EXACT,
        batch_size=batch_size,
        forward_bytes=batch_size * tile_bytes,
        region_px=options.region_px or _region_px(grid, stitching, batch_size),
    )
