"""How a scene is cut into tiles: stitching, tile size, batch and regions, each with its reason.

Tile size. What the tiles of a size cost for this scene, halos and borders included, is weighed
against the memory that a pass takes. Exact stitching reads 2H more than it writes along each axis:
large tiles make that cheap, and so do networks that need the halo for a share of their work only.
A scene that takes six tiles along an axis takes the smallest six. Costs are counted, not timed:
every worker of a run must come to the same tiles.

One price for scenes of all sizes keeps the memory of a process about the same for all of them,
beyond the few megapixels that fit in one tile. A lower one (power 0.25, up to 480 MB a pass) saved
a tenth of the time in the network and took a fifth to a third more for 7 to 12 megapixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from tilingseg.errors import PlanError
from tilingseg.grid import TileGrid

if TYPE_CHECKING:
    from tilingseg.model.spec import Geometry
    from tilingseg.records import Scene

Stitching = Literal["exact", "hann"]

EXACT = "the core of a tile equals inference on the whole scene"
MEASURED = "how far the network sees is measured, for its layers cannot be read"
REGION_PX = 4096
"""Side that a region is rounded to, px, at most: minutes of work on a CPU, megabytes of results."""
LEAST_REGION_PX = 1024
"""The same at least."""
N_REGIONS = 16
"""Regions that a smaller scene is cut into, about: what is lost with a kill is a share of it."""
CHUNK_PX = 1024
"""Side that a store chunk is rounded to, px."""
PASS_BYTES = 300_000_000
"""What one forward pass may use on a processor, bytes."""
FORWARD_FACTOR = 2.7
"""Peak memory of a forward pass over its activations alone, measured: kernels borrow, and the
allocator keeps what it has freed."""
CORE_FACTOR = 2.2
"""The same where only the core of a tile is computed to the end, measured before maps were let go
the moment they are used: on the safe side by now."""
MAX_BATCH = 8
"""Tiles in one forward pass beyond which nothing is gained."""
TILE_COST_PX = 4000
"""What a tile costs besides its pixels, in pixels of a small network, measured."""
WORTH_MEMORY = 0.6
"""Power of a process's memory that its work is multiplied with: twice as much must save a third."""
WORTH_DEVICE_MEMORY = 0.05
"""The same of a GPU, whose memory is there for the network: twice as much must save a thirtieth."""
BASE_BYTES = 400_000_000
"""What a process needs beside its forward passes, measured, bytes."""
CORE_SIZES_PX = range(256, 3073, 128)
"""Tile cores that are compared for exact stitching, px."""
EXACT_FACTOR = 4
"""How many times the memory of a pass the smallest exact tile may need before tiles are blended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TilingOptions:
    """What the user may ask of the tiling; None: it is decided here."""

    tile_size_px: int | None = None
    """Side of a tile, px."""
    overlap_px: int | None = None
    """Pixels that neighbouring tiles share, px."""
    blend: Literal["auto", "exact", "hann"] = "auto"
    """How overlaps become one result; `auto`: exact where the network allows it."""
    batch_size: int | None = None
    """Tiles in one forward pass."""
    memory_bytes: int | None = None
    """What one forward pass may use, bytes; None: what the device has for it."""
    region_px: int | None = None
    """Side that a region is rounded to, px: the unit of work on a cluster and of resuming."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassLimits:
    """What a forward pass may be on the devices of a run."""

    memory_bytes: int = PASS_BYTES
    """What it may use, bytes."""
    batch_size: int = MAX_BATCH
    """Most tiles that are worth taking at once."""
    why: str = "more gain nothing"
    """Why no more than that, a few words."""
    worth_memory: float = WORTH_MEMORY
    """Power of the memory that its work is multiplied with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reasons:
    """Why a scene is cut as it is, a few words each."""

    tile: str
    """Of the tile size."""
    batch: str
    """Of the tiles in one forward pass."""
    region: str
    """Of the size of regions."""


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
    reasons: Reasons
    """Why these sizes; no part of what makes two plans equal."""

    @property
    def chunk_tiles(self) -> int:
        """Tiles along each side of a store chunk."""
        return max(1, min(CHUNK_PX, self.region_px) // self.grid.stride_px)

    @property
    def region_tiles(self) -> int:
        """Tiles along each side of a region, a multiple of `chunk_tiles`."""
        chunk_px = self.chunk_tiles * self.grid.stride_px
        return self.chunk_tiles * max(1, round(self.region_px / chunk_px))


def plan_tiles(
    scene: Scene,
    geometry: Geometry,
    options: TilingOptions,
    size_px: int,
    limits: PassLimits | None = None,
) -> Tiling:
    """Decide stitching, tile size, batch and regions for one scene.

    Args:
        scene: the pixel grid that the model sees.
        geometry: halo, lattice and memory of the network.
        options: what the user asked for.
        size_px: tile size that the model proposes for blending, px.
        limits: of a forward pass on the devices; None: those of a small one.

    Raises:
        PlanError: the wishes contradict each other or the network, with what would work.
    """
    limits = limits or PassLimits()
    if options.memory_bytes is not None:
        limits = replace(limits, memory_bytes=options.memory_bytes)
    _check_overlap(geometry, options)
    obstacle = _obstacle(scene, geometry, options)
    if obstacle is None:
        overlap = options.overlap_px
        if overlap is None:
            overlap = 2 * (geometry.halo_px or 0)
        size, why = options.tile_size_px, "asked for"
        if size is None:
            size, why = _cheapest_size(scene, geometry, limits, overlap)
        if size <= overlap:  # the scene fits in one tile, nothing is shared
            overlap = 0
        grid = _grid(scene, geometry, size, overlap)
        needed, most = _forward_bytes(grid, geometry, exact=True), limits.memory_bytes
        if options.blend == "exact" or options.tile_size_px or needed <= EXACT_FACTOR * most:
            return _tiling(grid, "exact", geometry, options, limits, why)
        obstacle = (
            f"exact tiles of this network need {needed / 1e6:,.0f} MB a forward pass or more and "
            f"{most / 1e6:,.0f} MB are meant for it; --blend exact takes them all the same"
        )
    if options.blend == "exact":
        raise PlanError(f"exact stitching is impossible here: {obstacle}; use --blend hann")
    size, why = options.tile_size_px, "asked for"
    if size is None:
        size, why = _rounded(size_px, geometry.multiple_px), "as in training"
    overlap = options.overlap_px
    if overlap is None:
        overlap = size // 4 // (2 * geometry.multiple_px) * (2 * geometry.multiple_px)
    grid = _grid(scene, geometry, size, overlap)
    return replace(_tiling(grid, "hann", geometry, options, limits, why), reason=obstacle)


def _check_overlap(geometry: Geometry, options: TilingOptions) -> None:
    """Refuse an overlap off the lattice, and say which ones work for what."""
    overlap, step = options.overlap_px, 2 * geometry.multiple_px
    if overlap is None or overlap % step == 0:
        return
    better = f"use {_rounded(overlap, step)}"
    if geometry.halo_px is not None and overlap < 2 * geometry.halo_px:
        better += f" to blend tiles or {2 * geometry.halo_px} to stitch them exactly"
    raise PlanError(f"overlap {overlap} px is no multiple of {step}; {better}")


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


def _grid(scene: Scene, geometry: Geometry, size: int, overlap: int) -> TileGrid:
    return TileGrid(
        height=scene.height,
        width=scene.width,
        tile_size_px=size,
        overlap_px=overlap,
        multiple_px=geometry.multiple_px,
    )


def _cheapest_size(
    scene: Scene, geometry: Geometry, limits: PassLimits, overlap: int
) -> tuple[int, str]:
    """Return the tile size with the least price that the memory allows, px, and why."""
    priced: list[tuple[float, int, int]] = []
    for core in CORE_SIZES_PX:
        size = _rounded(core + overlap, geometry.multiple_px)
        if overlap:  # without, tiles of round sizes are whole blocks of files
            size = _fitted(_grid(scene, geometry, size, overlap))
        grid = _grid(scene, geometry, size, overlap)
        forward_bytes = _forward_bytes(grid, geometry, exact=True)
        held = (BASE_BYTES + forward_bytes) ** limits.worth_memory
        price = _work(grid, geometry, exact=True) * held
        priced.append((price, size, forward_bytes))
    most = f"{limits.memory_bytes / 1e6:,.0f} MB"
    fitting = [it for it in priced if it[2] <= limits.memory_bytes]
    if not fitting:
        return priced[0][1], f"the smallest, none keeps to {most}"
    size = min(fitting)[1]
    if min(priced)[1] > size:
        return size, f"larger ones need more than {most}"
    if len(_grid(scene, geometry, size, overlap)) == 1:
        return size, "the whole scene in one"
    return size, f"the best of {len(priced)} sizes by work and memory"


def _work(grid: TileGrid, geometry: Geometry, *, exact: bool) -> float:
    """Return what the network does for all tiles, as a multiple of what it does for the scene."""
    share = geometry.core_share if exact else 0.0
    scene_px = grid.height * grid.width  # what the cores of all tiles are together
    tiles_px = len(grid) * grid.tile_shape[0] * grid.tile_shape[1]
    return (1 - share) * tiles_px / scene_px + share + len(grid) * TILE_COST_PX / scene_px


def _fitted(grid: TileGrid) -> int:
    """Return the smallest tile size with which no more tiles are needed, px."""
    least = grid.overlap_px + grid.multiple_px
    for length, count in ((grid.height, grid.n_rows), (grid.width, grid.n_cols)):
        padded = _rounded(length, grid.multiple_px)
        if count == 1:
            least = max(least, padded)
        else:
            core = -(-(padded - grid.halo_px) // count)
            least = max(least, _rounded(core, grid.multiple_px) + grid.overlap_px)
    return min(least, grid.tile_size_px)


def _forward_bytes(grid: TileGrid, geometry: Geometry, *, exact: bool) -> int:
    height, width = grid.tile_shape
    factor = CORE_FACTOR if exact and geometry.core_share else FORWARD_FACTOR
    return int(height * width * geometry.bytes_per_px * factor)


def _region_px(grid: TileGrid, stitching: Stitching, batch_size: int) -> tuple[int, str]:
    """Return the side that a region is rounded to, px, and why."""
    if stitching == "hann":
        return REGION_PX, "tiles that reach over a border are inferred on both sides of it"
    side = math.isqrt(grid.height * grid.width // N_REGIONS)
    # a batch ends with its region
    side = min(REGION_PX, max(side, LEAST_REGION_PX, batch_size * grid.stride_px))
    return side, f"about {N_REGIONS} a scene and {LEAST_REGION_PX:,}–{REGION_PX:,} px each"


def _batch_size(
    grid: TileGrid, tile_bytes: int, wish: int | None, limits: PassLimits
) -> tuple[int, str]:
    """Return how many tiles go through the network at once, and why."""
    if wish is not None and wish < 1:
        raise PlanError(f"batch size must be 1 or more, got {wish}")
    fit = max(1, limits.memory_bytes // tile_bytes)
    bounds = [
        (limits.batch_size, limits.why),
        (fit, f"{limits.memory_bytes / 1e6:,.0f} MB hold no more"),
    ]
    if wish is not None:
        bounds = [(wish, "asked for")]
    # a batch holds neighbours of one row
    bounds.append((grid.n_cols, "a row of tiles holds no more"))
    return min(bounds, key=lambda bound: bound[0])


def _tiling(
    grid: TileGrid,
    stitching: Stitching,
    geometry: Geometry,
    options: TilingOptions,
    limits: PassLimits,
    why_size: str,
) -> Tiling:
    exact = stitching == "exact"
    tile_bytes, work = (
        _forward_bytes(grid, geometry, exact=exact),
        _work(grid, geometry, exact=exact),
    )
    why_size += f": {work:.2f} × the scene's work, {tile_bytes / 1e6:,.0f} MB a tile"
    batch_size, why_batch = _batch_size(grid, tile_bytes, options.batch_size, limits)
    region_px, why_region = _region_px(grid, stitching, batch_size)
    if options.region_px:
        region_px, why_region = options.region_px, "asked for"
    return Tiling(
        grid=grid,
        stitching=stitching,
        reason=f"{EXACT}; {MEASURED}" if geometry.measured else EXACT,
        batch_size=batch_size,
        forward_bytes=batch_size * tile_bytes,
        region_px=region_px,
        reasons=Reasons(tile=why_size, batch=why_batch, region=why_region),
    )


def _rounded(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple
