"""WorkStore: where regions write and from where a killed run goes on.

A folder beside the outputs, on disk or on an object store::

    plan.json            what is being done, another plan is refused; outputs that may be replaced
    pixels.zarr/mask     uint8 (height, width), fill NODATA
    pixels.zarr/probability   uint8 (classes, height, width), 255 = 1; only where outputs need it
    views/000012.npy     what region 12 saw and found, reduced, for the preview
    done/000012.json     completion record of region 12

Region cores are whole numbers of chunks, so every chunk has one writer, which writes it once and
whole: a worker that was given up for lost but still lives writes the same bytes again and harms
nothing. A region is done when its completion record is renamed into place, after its chunks are
flushed to disk (objects appear whole and need neither); whatever an interrupted region left behind
is written again. Rows of chunks that hold nothing but nodata take no space.

Knows nothing of tiles or networks. Exports and vectors read it as a `MaskReader`.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec
from zarr.errors import BaseZarrError

from tilingseg.atomic import write_shared, write_whole
from tilingseg.errors import OutputError, PlanError
from tilingseg.places import is_remote, refusals, remove, why, zarr_root
from tilingseg.plan import RunPlan, plan_identity
from tilingseg.quicklook import Quicklook
from tilingseg.records import (
    NODATA,
    Georef,
    RegionReport,
    Scaling,
    describe_changes,
    to_json,
    tuples,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tilingseg.grid import Window

_COMPRESSOR = ZstdCodec(level=-1)
"""The store is read once or twice and removed: half the time for files a sixth larger."""
FINISHED = "run.json"
"""The run's report while it waits: all outputs stand, only this and the clean-up are left."""


class WorkStore:
    """Masks and probabilities of one run, with its completion records."""

    def __init__(self, folder: Path, plan: RunPlan, scaling: Scaling) -> None:
        """Open an existing store; use `create` or `resume` to get one.

        Raises:
            PlanError: its pixels are damaged or gone.
        """
        self.folder = folder
        self.plan = plan
        self.scaling = scaling
        # Zarr takes as long to see whether a chunk is empty as to compress it; `write` knows.
        try:
            with zarr.config.set({"array.write_empty_chunks": True}):
                group = zarr.open_group(**zarr_root(folder / "pixels.zarr"), mode="r+")
                mask, probability = group["mask"], group.get("probability")
        except refusals(BaseZarrError, KeyError, ValueError) as error:
            raise PlanError(
                f"{folder} is no readable work store ({why(error)}); start anew with --no-resume"
            ) from error
        assert isinstance(mask, zarr.Array)
        assert probability is None or isinstance(probability, zarr.Array)
        self._mask, self._probability = mask, probability

    @classmethod
    def create(
        cls,
        folder: Path,
        plan: RunPlan,
        scaling: Scaling,
        agreed: frozenset[str] = frozenset(),
        *,
        keep_probability: bool = True,
    ) -> WorkStore:
        """Make an empty store; whatever stood in the folder is removed.

        Args:
            folder: where it will lie.
            plan: what is being done.
            scaling: how the scene's values are scaled.
            agreed: names of outputs that this run may write, whatever stands there.
            keep_probability: False: masks alone, which take a fraction of the time and room.

        Raises:
            OutputError: the folder cannot be written.
        """
        try:
            _remove_store(folder)
            if not is_remote(folder):
                for name in ("done", "views"):
                    (folder / name).mkdir(parents=True)
            group = zarr.create_group(**zarr_root(folder / "pixels.zarr"))
            shape, chunk = (plan.grid.height, plan.grid.width), (plan.chunk_px, plan.chunk_px)
            n_classes = len(plan.model.spec.classes)
            group.create_array(
                "mask",
                shape=shape,
                chunks=chunk,
                dtype="uint8",
                fill_value=NODATA,
                compressors=_COMPRESSOR,
            )
            if keep_probability:
                group.create_array(
                    "probability",
                    shape=(n_classes, *shape),
                    chunks=(1, *chunk),
                    dtype="uint8",
                    fill_value=0,
                    compressors=_COMPRESSOR,
                )
        except refusals() as error:
            raise OutputError(f"cannot create the work store {folder}: {why(error)}") from error
        text = json.dumps(
            {
                "plan": plan_identity(plan),
                "scaling": to_json(scaling),
                "ticket": uuid.uuid4().hex,
                "outputs": sorted(agreed),
            },
            indent=1,
        )
        write_whole(folder / "plan.json", text)
        return cls(folder, plan, scaling)

    @classmethod
    def resume(cls, folder: Path, plan: RunPlan) -> WorkStore | None:
        """Open the store of an interrupted run of the same plan; None: there is none.

        Raises:
            PlanError: the interrupted run had another plan; names every difference.
        """
        stored = _read_plan(folder)
        if stored is None:
            return None
        # the round trip gives both sides the types of JSON
        wanted = json.loads(json.dumps(plan_identity(plan)))
        if changes := describe_changes(stored["plan"], wanted):
            raise PlanError(
                f"{folder} holds an interrupted run with another plan ({'; '.join(changes[:6])}): "
                "repeat the earlier command to finish it, or start anew with --no-resume"
            )
        scaling = Scaling(**{key: tuples(value) for key, value in stored["scaling"].items()})
        return cls(folder, plan, scaling)

    @staticmethod
    def agreed(folder: Path) -> frozenset[str]:
        """Return the names of outputs that an interrupted run may write; none: there is none."""
        try:
            stored = _read_plan(folder)
        except PlanError:
            return frozenset()  # who goes on with that run is told by `resume`
        return frozenset() if stored is None else frozenset(stored.get("outputs", ()))

    def agree(self, names: frozenset[str]) -> None:
        """Note that outputs of these names, too, may be written.

        Raises:
            OutputError: the disk is full or gone.
        """
        stored = _read_plan(self.folder)
        if stored is not None and not names <= set(stored.get("outputs", ())):
            text = json.dumps(stored | {"outputs": sorted(names)}, indent=1)
            write_whole(self.folder / "plan.json", text)

    @staticmethod
    def engine_of(folder: Path) -> str | None:
        """Return the engine of the interrupted run that a folder holds; None: there is none."""
        stored = _read_plan(folder)
        engine: str | None = None if stored is None else stored["plan"]["model"].get("engine")
        return engine

    @property
    def height(self) -> int:
        """Rows, px."""
        return self.plan.grid.height

    @property
    def width(self) -> int:
        """Columns, px."""
        return self.plan.grid.width

    @property
    def georef(self) -> Georef:
        """Where the pixels lie."""
        return self.plan.scene.georef

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; class k is mask value k + 1."""
        return self.plan.model.spec.classes

    @property
    def keeps_probability(self) -> bool:
        """Whether probabilities are stored beside the mask."""
        return self._probability is not None

    def read_mask(self, window: Window) -> NDArray[np.uint8]:
        """Return uint8 (height, width): background, class values from 1, nodata."""
        return np.asarray(self._mask[_slices(window)], dtype=np.uint8)

    def read_probability(self, class_index: int, window: Window) -> NDArray[np.uint8] | None:
        """Return the class's probability, uint8 (height, width), 255 = 1; None: not kept."""
        if self._probability is None:
            return None
        return np.asarray(self._probability[(class_index, *_slices(window))], dtype=np.uint8)

    def write(
        self, window: Window, mask: NDArray[np.uint8], probability: NDArray[np.uint8]
    ) -> None:
        """Write finished pixels; windows that end inside a chunk must come from one thread.

        Args:
            window: where they lie, inside the scene.
            mask: uint8 (height, width).
            probability: uint8 (classes, height, width), 255 = 1; ignored where it is not kept.

        Raises:
            OutputError: the disk is full or gone.
        """
        rows, cols = _slices(window)
        if not (mask != NODATA).any():
            return  # as is what was never written
        try:
            self._mask[rows, cols] = mask
            if self._probability is not None:
                self._probability[:, rows, cols] = probability
        except refusals() as error:
            raise self._refused(error) from error

    def keep_view(self, index: int, view: Quicklook) -> None:
        """Keep what a region saw and found; before its completion record.

        Raises:
            OutputError: the disk is full or gone.
        """
        file = io.BytesIO()
        layers = [view.pixels, view.valid[None], view.mask[None]]
        np.save(file, np.concatenate(layers, dtype=view.pixels.dtype), allow_pickle=False)
        write_shared(self._view(index), file.getvalue())

    def view(self, index: int) -> Quicklook:
        """Return what a complete region saw and found."""
        layers = np.load(io.BytesIO(self._view(index).read_bytes()), allow_pickle=False)
        *pixels, valid, mask = layers
        return Quicklook(pixels=np.stack(pixels), valid=valid > 0, mask=mask.astype(np.uint8))

    @property
    def ticket(self) -> str:
        """What tells this store from an earlier or later one in the same folder."""
        stored = _read_plan(self.folder)
        return "" if stored is None else str(stored.get("ticket", ""))

    def complete(self, core: Window, report: RegionReport) -> None:
        """Flush the chunks of a region to disk, then put its completion record in place.

        Raises:
            OutputError: the disk is full or gone.
        """
        if not is_remote(self.folder):
            try:
                self._flush(core)
            except OSError as error:  # quotas and network disks may say it only now
                raise self._refused(error) from error
        write_shared(self._record(report.index), json.dumps(to_json(report)))

    def is_complete(self, index: int) -> bool:
        """Tell whether a region has its completion record."""
        return self._record(index).exists()

    def completed_indexes(self) -> frozenset[int]:
        """Return which regions are complete; opens no file but the folder."""
        return frozenset(int(path.stem) for path in (self.folder / "done").glob("*.json"))

    def completed(self) -> dict[int, RegionReport]:
        """Return the completion records, by region index."""
        reports = {}
        for path in sorted((self.folder / "done").glob("*.json")):
            raw = json.loads(path.read_text(encoding="utf-8"))
            record = RegionReport(**{key: tuples(value) for key, value in raw.items()})
            reports[record.index] = record
        return reports

    def mark_finished(self, report: str) -> None:
        """Keep the run's report: from here on all outputs stand under their final names."""
        write_whole(self.folder / FINISHED, report)

    def finished_report(self) -> str | None:
        """Return the report that waits for its place; None: outputs are still missing."""
        path = self.folder / FINISHED
        return path.read_text(encoding="utf-8") if path.exists() else None

    def remove(self) -> None:
        """Delete the store."""
        _remove_store(self.folder)

    def _refused(self, error: BaseException) -> OutputError:
        return OutputError(
            f"cannot write to the work store {self.folder}: {why(error)}; "
            "free some space and repeat the command, finished regions are kept"
        )

    def _view(self, index: int) -> Path:
        return self.folder / "views" / f"{index:06d}.npy"

    def _record(self, index: int) -> Path:
        return self.folder / "done" / f"{index:06d}.json"

    def _flush(self, core: Window) -> None:
        chunk = self.plan.chunk_px
        root = self.folder / "pixels.zarr"
        for row in range(core.row // chunk, -(-core.row_stop // chunk)):
            for col in range(core.col // chunk, -(-core.col_stop // chunk)):
                paths = [root / "mask" / "c" / str(row) / str(col)]
                paths += [
                    root / "probability" / "c" / str(k) / str(row) / str(col)
                    for k in range(len(self.classes))
                ]
                for path in paths:
                    _sync(path)


def _remove_store(folder: Path) -> None:
    """Delete what stands there; half of a store is never taken for a whole one."""
    if is_remote(folder):
        (folder / "plan.json").unlink(missing_ok=True)  # without it, it is no store
        remove(folder)
        return
    aside = folder.with_name(folder.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    if folder.is_dir():
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        remove(folder)


def _read_plan(folder: Path) -> dict[str, Any] | None:
    try:
        stored = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except refusals(ValueError) as error:
        raise PlanError(
            f"{folder} is no readable work store ({error}); start anew with --no-resume"
        ) from error
    if not isinstance(stored, dict) or not {"plan", "scaling"} <= stored.keys():
        raise PlanError(f"{folder}/plan.json is no plan; start anew with --no-resume")
    return stored


def _slices(window: Window) -> tuple[slice, slice]:
    return slice(window.row, window.row_stop), slice(window.col, window.col_stop)


def _sync(path: Path) -> None:
    """Force a chunk to the disk; Windows does so for files that may be written alone."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:  # nothing but fill values: Zarr keeps no file
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
