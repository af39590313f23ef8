"""Vectors by region, joined over the borders of regions by a tree of small tasks.

    level 0   one task a region: its shapes become polygons; pieces of shapes that reach its side
              and the skeletons of its roads are kept
    level 1…  four tasks for 4 × 4 of the level below: pieces are joined, shapes that are complete
              now become polygons
    publish   reads the polygons of all levels in the order of one process, and writes

To join pieces is quick and to fit their shapes is not, least of all the block of an old town. So
each of the four joins them all and fits a share of the shapes.

What a task makes lies in the work store, in `vectors-…`: lines of JSON for polygons (coordinates as
WKB, so that no bit is lost), arrays for pieces and skeletons. The pieces are written last: a task
whose pieces are there has been done.
"""

from __future__ import annotations

import hashlib
import heapq
import io
import json
from collections import Counter, deque
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from tilingseg.atomic import write_shared
from tilingseg.grid import Window
from tilingseg.output_folder import VECTOR_SUFFIXES
from tilingseg.places import is_remote
from tilingseg.records import Feature, tuples
from tilingseg.vectorize.blocks import join_blocks, trace_block
from tilingseg.vectorize.centerlines import centerline_skeleton, skeletons
from tilingseg.vectorize.layers import is_road, polygons_of, traced_mask
from tilingseg.vectorize.roads import RoadOptions
from tilingseg.vectorize.skeleton import SkeletonPixels
from tilingseg.vectorize.strips import Measures, TracedStrip
from tilingseg.vectorize.trace import shapes_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from tilingseg.output_folder import OutputOptions
    from tilingseg.plan import RunPlan
    from tilingseg.records import Shape
    from tilingseg.store import WorkStore

FAN = 4
"""Parts along each side that one task joins."""
SHARES = 4
"""Tasks that share the shapes of one join."""
SIDES = ("top", "bottom", "left", "right")
MEASURES = ("n_pixels", "probability", "last")


def tree_levels(plan: RunPlan, options: OutputOptions) -> tuple[int, ...]:
    """Return how many tasks each level has; none where one region or no vectors are wanted."""
    if plan.n_regions == 1 or not set(options.formats) & set(VECTOR_SUFFIXES):
        return ()
    return _tasks_of_levels(plan)


def vectorize_part(store: WorkStore, options: OutputOptions, level: int, number: int) -> None:
    """Do one task of the tree, unless it has been done.

    Args:
        store: all regions of it are complete, and so is the level below.
        options: how masks become vectors.
        level: of the tree, from 0.
        number: of the task: parts in row-major order, the shares of each one after the other.

    Raises:
        OutputError: the work store cannot be written.
    """
    folder = _Folder.of_store(store, options)
    pieces = folder.of(level, number) / "pieces.npz"
    if pieces.exists():
        return
    part_number, share = divmod(number, _n_shares(level))
    part = _Part(plan=store.plan, level=level, number=part_number)
    arrays: dict[str, Any] = {}
    alone = replace(options.vectors, workers=1)  # the cluster has its own processes
    for index in store.plan.model.class_indexes:
        if level == 0:
            mask = traced_mask(store, index)
            traced = trace_block(mask, index + 1, part.window, _whole(store.plan))
            _keep_skeletons(folder, store, index, part.window)
        else:
            below = [[_unpack(folder, level - 1, n, index) for n in row] for row in part.below]
            traced = join_blocks(below, store.width + 1)
        left_out: Counter[str] = Counter()
        threshold = store.plan.model.thresholds[index]
        shapes = shapes_of(index + 1, store.keeps_probability, traced.polygons, traced.complete)
        if level > 0:
            shapes = iter(_shared(shapes)[share])
        found = polygons_of(shapes, store, index, threshold, alone, left_out)
        lines = [json.dumps(_to_json(feature)) for feature in found]
        text = "".join(f"{line}\n" for line in (json.dumps(dict(left_out)), *lines))
        folder.write(folder.of(level, number) / f"{index}.jsonl", text.encode())
        if share == 0:
            arrays |= {f"{index}.{name}": array for name, array in _packed(traced).items()}
    folder.write(pieces, _npz(arrays))


class GatheredVectors:
    """What the tasks of the tree have left, for `vector_layers`."""

    def __init__(self, store: WorkStore, options: OutputOptions) -> None:
        """Read from a store whose tree is complete, made with the same options."""
        self._store = store
        self._folder = _Folder.of_store(store, options)

    def polygons(self, class_index: int, left_out: Counter[str]) -> Iterator[Feature]:
        """Yield the polygons of a class in the order of their shapes' last pixels."""
        plan = self._store.plan
        parts = [
            (_Part(plan=plan, level=level, number=number // _n_shares(level)), number)
            for level, n_tasks in enumerate(_tasks_of_levels(plan))
            for number in range(n_tasks)
        ]
        # no shape ends above its part: from a part further down nothing can come first
        lattice = self._store.width + 1
        waiting = deque(
            sorted((part.window.row * lattice, part.level, number) for part, number in parts)
        )
        heap: list[tuple[int, int, int, Feature, Iterator[Feature]]] = []
        while waiting or heap:
            while waiting and (not heap or waiting[0][0] <= heap[0][0]):
                _, level, number = waiting.popleft()
                stream = self._stream(level, number, class_index, left_out)
                if (feature := next(stream, None)) is not None:
                    heapq.heappush(heap, (feature.last, level, number, feature, stream))
            if not heap:
                continue
            _, level, number, feature, stream = heap[0]
            yield feature
            if (following := next(stream, None)) is None:
                heapq.heappop(heap)
            else:
                heapq.heapreplace(heap, (following.last, level, number, following, stream))

    def skeleton(self, class_index: int, core: Window) -> SkeletonPixels:
        """Return what a core of the centrelines holds; sought here where no region began it."""
        path = self._folder.skeleton(class_index, core)
        if not path.exists():
            return centerline_skeleton(self._store, class_index + 1, RoadOptions(), core)
        found = _arrays(path)
        return SkeletonPixels(
            rows=found["rows"],
            cols=found["cols"],
            radii_m=found["radii_m"],
            probabilities=found.get("probabilities"),
            n_specks=int(found["n_specks"]),
            n_holes=int(found["n_holes"]),
        )

    def _stream(
        self, level: int, number: int, class_index: int, left_out: Counter[str]
    ) -> Iterator[Feature]:
        path = self._folder.of(level, number) / f"{class_index}.jsonl"
        with path.open("rb") as file:
            left_out.update(json.loads(file.readline()))
            for line in file:
                yield _from_json(self._store.classes[class_index], json.loads(line))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A rectangle of regions: what one task of the tree answers for."""

    plan: RunPlan
    level: int
    number: int

    @property
    def window(self) -> Window:
        """Its pixels."""
        rows, cols = self.plan.region_ranges
        side = FAN**self.level
        row, col = divmod(self.number, -(-len(cols) // side))
        return _window(
            self.plan,
            rows[row * side : (row + 1) * side],
            cols[col * side : (col + 1) * side],
        )

    @property
    def below(self) -> list[list[int]]:
        """Rows of the tasks of the level below that it joins."""
        shapes = _shapes_of_levels(self.plan)
        (n_rows, n_cols), (_, width) = shapes[self.level - 1], shapes[self.level]
        row, col = divmod(self.number, width)
        return [
            [i * n_cols + j for j in range(col * FAN, min((col + 1) * FAN, n_cols))]
            for i in range(row * FAN, min((row + 1) * FAN, n_rows))
        ]


class _Folder:
    """The folder of the vectors; one folder a task, so that none grows long."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def of_store(cls, store: WorkStore, options: OutputOptions) -> _Folder:
        """Return the folder of the vectors that these options give."""
        wishes = replace(options.vectors, workers=1), store.keeps_probability
        name = hashlib.sha256(repr(wishes).encode()).hexdigest()[:8]
        return cls(store.folder / f"vectors-{name}")

    def of(self, level: int, number: int) -> Path:
        return self._path / str(level) / f"{number:06d}"

    def skeleton(self, class_index: int, core: Window) -> Path:
        return self._path / "skeletons" / f"{class_index}-{core.row}-{core.col}.npz"

    def write(self, path: Path, data: bytes) -> None:
        if not is_remote(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_shared(path, data)


def _tasks_of_levels(plan: RunPlan) -> tuple[int, ...]:
    shapes = enumerate(_shapes_of_levels(plan))
    return tuple(rows * cols * _n_shares(level) for level, (rows, cols) in shapes)


def _n_shares(level: int) -> int:
    return SHARES if level else 1


def _shared(shapes: Iterable[Shape]) -> list[list[Shape]]:
    """Divide shapes so that the shares have about as many pixels; each in the order of the whole.

    Args:
        shapes: the same ones in each task.
    """
    found = list(shapes)
    areas = [shape.polygon.area for shape in found]
    numbers: list[list[int]] = [[] for _ in range(SHARES)]
    loads = [0.0] * SHARES
    for number in sorted(range(len(found)), key=lambda number: -areas[number]):
        least = loads.index(min(loads))
        numbers[least].append(number)
        loads[least] += areas[number]
    return [[found[number] for number in sorted(share)] for share in numbers]


def _shapes_of_levels(plan: RunPlan) -> list[tuple[int, int]]:
    """Return rows and columns of the parts of each level; the last level has one."""
    rows, cols = plan.region_ranges
    shapes = [(len(rows), len(cols))]
    while shapes[-1] != (1, 1):
        shapes.append((-(-shapes[-1][0] // FAN), -(-shapes[-1][1] // FAN)))
    return shapes


def _whole(plan: RunPlan) -> Window:
    """Return all regions that touch the extent as one window; beyond it all is nodata."""
    return _window(plan, *plan.region_ranges)


def _window(plan: RunPlan, rows: range, cols: range) -> Window:
    first = plan.region(rows[0] * plan.n_region_cols + cols[0]).core
    last = plan.region(rows[-1] * plan.n_region_cols + cols[-1]).core
    return Window(
        row=first.row,
        col=first.col,
        height=last.row_stop - first.row,
        width=last.col_stop - first.col,
    )


def _keep_skeletons(folder: _Folder, store: WorkStore, index: int, part: Window) -> None:
    if not is_road(store.classes[index]):
        return
    for core, found in skeletons(store, index + 1, RoadOptions(), part):
        arrays = {name: getattr(found, name) for name in ("rows", "cols", "radii_m")}
        if found.probabilities is not None:
            arrays["probabilities"] = found.probabilities
        counts = {"n_specks": np.array(found.n_specks), "n_holes": np.array(found.n_holes)}
        folder.write(folder.skeleton(index, core), _npz(arrays | counts))


def _packed(traced: TracedStrip) -> dict[str, Any]:
    """Return the pieces of a part as arrays; those that are complete are left out."""
    arrays = {name: getattr(traced, name) for name in SIDES}
    arrays |= {name: getattr(traced.pieces, name) for name in MEASURES}
    empty = np.empty(0, dtype=np.int64)
    arrays["corners"] = np.concatenate([empty, *traced.corners])
    arrays["bounds"] = np.cumsum([0, *(len(part) for part in traced.corners)])
    return arrays


def _unpack(folder: _Folder, level: int, number: int, class_index: int) -> TracedStrip:
    first_task = folder.of(level, number * _n_shares(level))
    found = _arrays(first_task / "pieces.npz", f"{class_index}.")
    empty = np.empty(0, dtype=np.int64)
    bounds = found["bounds"].tolist()
    return TracedStrip(
        polygons=np.empty(0, dtype=np.object_),
        complete=Measures(n_pixels=empty, probability=empty, last=empty),
        pieces=Measures(**{name: found[name] for name in MEASURES}),
        corners=[found["corners"][start:stop] for start, stop in pairwise(bounds)],
        **{name: found[name] for name in SIDES},
    )


def _npz(arrays: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _arrays(path: Path, prefix: str = "") -> dict[str, Any]:
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
        names = [name for name in file.files if name.startswith(prefix)]
        return {name.removeprefix(prefix): file[name] for name in names}


def _to_json(feature: Feature) -> list[Any]:
    wkb = shapely.to_wkb(feature.geometry, hex=True)
    return [feature.last, wkb, feature.confidence, feature.properties]


def _from_json(class_name: str, raw: list[Any]) -> Feature:
    last, wkb, confidence, properties = raw
    return Feature(
        class_name=class_name,
        geometry=shapely.from_wkb(wkb),
        confidence=confidence,
        properties=tuples(properties),
        last=last,
    )
