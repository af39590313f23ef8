"""A job: what the user asked for becomes a plan, with what is needed to carry it out.

Everything is decided here before a pixel is read: scene, model, area of interest, tiles, devices.
Wishes that cannot be met end here.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely

from tilingseg import __version__
from tilingseg.area import area_from_box, area_from_file, area_window
from tilingseg.errors import PlanError, TilingSegError
from tilingseg.infer import (
    D4,
    UPRIGHT,
    EngineChoice,
    FrugalEngine,
    HalvingEngine,
    MeanEngine,
    choose_devices,
    choose_engine,
    choose_readers,
    common_parts,
    device_bytes,
    make_engine,
    n_threads,
)
from tilingseg.model.ensemble import check_alike, common_geometry
from tilingseg.model.load import DEFAULT_MODEL, load_model
from tilingseg.output_folder import OutputOptions
from tilingseg.places import absolute
from tilingseg.plan import ModelUse, RunPlan, estimate_run
from tilingseg.readers import open_scene
from tilingseg.records import Scaling
from tilingseg.tiling import WORTH_DEVICE_MEMORY, PassLimits, TilingOptions, plan_tiles

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shapely.geometry.base import BaseGeometry

    from tilingseg.infer import Engine
    from tilingseg.infer.engine import Part
    from tilingseg.model.load import LoadedModel
    from tilingseg.model.spec import ModelSpec
    from tilingseg.plan import Estimate
    from tilingseg.records import Scene, SceneReader


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What the user may ask of a run; the command line has a flag for each."""

    model: str | Path = DEFAULT_MODEL
    """Name of a bundled model, or a model file."""
    further_models: tuple[str | Path, ...] = ()
    """Models whose probabilities are averaged with those of `model`."""
    model_sha256: str | None = None
    """Refuse the file of `model` if its hash is another."""
    torchscript: bool = False
    """Accept TorchScript files as models: the code in them is run."""
    tta: bool = False
    """Average over the eight orientations of every tile: eight times the work."""
    bands: tuple[int, ...] | None = None
    """Bands of the file, from 1, in the model's order; None: matched by name."""
    gsd_m: float | None = None
    """Pixel size that the network sees, metres on the ground; None: the model's own."""
    pixel_m: float | None = None
    """Pixel size of a scene that does not say its own, metres."""
    selectors: tuple[tuple[str, int], ...] = ()
    """(axis, index) pairs for axes of a Zarr array that are neither bands nor y nor x."""
    box: tuple[float, float, float, float] | None = None
    """Area of interest: min x, min y, max x, max y in the scene's CRS."""
    area_file: str | Path | None = None
    """Area of interest: the polygons of a vector file."""
    classes: tuple[str, ...] | None = None
    """Classes to keep; None: all."""
    thresholds: tuple[tuple[str | None, float], ...] = ()
    """(class, probability) pairs that replace the model's thresholds; class None: all."""
    tiling: TilingOptions = field(default_factory=TilingOptions)
    """Tile size, overlap, blending, batch."""
    device: str = "auto"
    """`auto`, or device names of torch separated by commas."""
    precision: str = "auto"
    """`auto`, `fp32`, `fp16`, `bf16` or `int8`."""
    engine: str = "auto"
    """`auto` (torch, unless another one needs less than 0.6 of its time and agrees with it),
    `torch`, `torch-compile`, `onnx` or `openvino`."""
    workers: int | None = None
    """Threads that read and decode tiles, for each device; None: what the device needs."""
    outputs: OutputOptions = field(default_factory=OutputOptions)
    """What is written."""
    overwrite: bool = False
    """Replace the outputs of an earlier run."""
    resume: bool = True
    """Go on with an interrupted run; False: start anew."""


DEVICE_SHARE = 0.4
"""What a forward pass may use of the memory of a GPU: weights, the band that is stitched and other
programs need some, and more tiles at once gain nothing."""
DEVICE_MOST_BYTES = 24_000_000_000
"""The same at most, bytes: no map of a pass has more values than 32 bits can count."""
KEPT_TILE_PX = 512 * 512
"""Largest tile whose engine is kept for the next scene, px: it holds some megabytes."""
MAX_KEPT = 4
"""Engines that are kept; scenes of a batch often come in a few sizes."""
_KEPT: OrderedDict[tuple[object, ...], tuple[Engine, ...]] = OrderedDict()
_KEPT_LOCK = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """A plan and what is needed to carry it out."""

    plan: RunPlan
    """What will be done."""
    reader: SceneReader
    """The open scene."""
    models: tuple[LoadedModel, ...]
    """The networks whose probabilities are averaged; mostly one."""
    area: BaseGeometry | None
    """Area of interest in pixel coordinates; None: the whole scene."""
    devices: tuple[str, ...]
    """Devices that share the regions."""
    workers: int
    """Reader threads for each device."""

    def engine(self, device: str, scaling: Scaling) -> Engine:
        """Load the network onto a device."""
        return self._joined(self._engines(device, scaling))

    @contextmanager
    def lent_engine(self, device: str, scaling: Scaling) -> Iterator[Engine]:
        """Lend the same, for one user at a time.

        Engines of small tiles stay in this process for the next scene that needs the same: to
        prepare a network can take longer than to infer such a scene.
        """
        use, shape = self.plan.model, self.plan.grid.tile_shape
        parts = repr(self._parts)
        key = (use.sha256, _choice(use), scaling, device, n_threads(), shape, parts)
        with _KEPT_LOCK:
            engines = _KEPT.pop(key, None)
        engines = engines or self._engines(device, scaling)
        yield self._joined(engines)  # where this ends in an error, they are not kept
        if shape[0] * shape[1] <= KEPT_TILE_PX:
            with _KEPT_LOCK:
                _KEPT[key] = engines
                while len(_KEPT) > MAX_KEPT:
                    _KEPT.popitem(last=False)

    @property
    def _parts(self) -> tuple[Part, ...]:
        exact = self.plan.tiling.stitching == "exact"
        return common_parts(self.plan.grid) if exact else ()

    def _engines(self, device: str, scaling: Scaling) -> tuple[Engine, ...]:
        choice = _choice(self.plan.model)
        return tuple(
            make_engine(model, scaling, device, choice, self._parts) for model in self.models
        )

    def _joined(self, engines: tuple[Engine, ...]) -> Engine:
        use = self.plan.model
        several = len(engines) > 1 or use.tta
        views = D4 if use.tta else UPRIGHT
        engine: Engine = MeanEngine(engines, views) if several else engines[0]
        if use.device_type != "cuda":  # a GPU's passes are not in this process's memory
            engine = FrugalEngine(engine)
        return HalvingEngine(engine, common_geometry(self.models))

    @property
    def model(self) -> LoadedModel:
        """The first network, whose spec and thresholds the run takes."""
        return self.models[0]


def prepare(uri: str, options: RunOptions) -> Job:
    """Open scene and model and plan the run; no pixel is read.

    Args:
        uri: path or URL of the scene.
        options: what the user asked for.

    Raises:
        TilingSegError: scene, model or options are unusable or do not fit each other.
    """
    if options.workers is not None and options.workers < 1:
        raise PlanError(f"workers must be 1 or more, got {options.workers}")
    if options.gsd_m is not None and not 0 < options.gsd_m < math.inf:
        raise PlanError(f"pixels of {options.gsd_m:g} m cannot be delivered; give a size above 0")
    models = _load_all(options)
    model, geometry = models[0], common_geometry(models)
    spec = model.spec
    reader = open_scene(
        _one_spelling(uri),
        bands=options.bands,
        band_names=spec.bands,
        gsd_m=spec.gsd_m if options.gsd_m is None else options.gsd_m,
        pixel_m=options.pixel_m,
        selectors=dict(options.selectors),
    )
    scene = reader.scene
    area = _area(options, scene)
    devices = choose_devices(options.device)
    choice = choose_engine(models, devices[0], options.engine, options.precision)
    limits = _limits(devices)
    tiling = plan_tiles(scene, geometry, options.tiling, spec.tile_size_px, limits)
    plan = RunPlan(
        software=__version__,
        scene=scene,
        model=ModelUse(
            spec=spec,
            sha256="+".join(model.sha256 for model in models),
            tta=options.tta,
            class_indexes=_class_indexes(options.classes, spec),
            thresholds=_thresholds(options, spec),
            device_type=_kind(devices),
            precision=choice.precision,
            engine=choice.engine,
            engine_version=choice.version,
            engine_reason=choice.reason,
        ),
        tiling=tiling,
        extent=tiling.grid.scene_window if area is None else area_window(area, scene),
        area_wkt=None if area is None else shapely.to_wkt(area, rounding_precision=-1),
    )
    return Job(
        plan=plan,
        reader=reader,
        models=models,
        area=area,
        devices=devices,
        workers=choose_readers(options.workers, devices),
    )


def _kind(devices: tuple[str, ...]) -> str:
    return devices[0].partition(":")[0]


def _limits(devices: tuple[str, ...]) -> PassLimits:
    """Return what a forward pass may be: the same for any number of devices of a kind."""
    if _kind(devices) == "cpu":
        return PassLimits(batch_size=1, why="a processor gains nothing by more")
    total = device_bytes(devices)
    if total is None:
        return PassLimits()
    most = min(int(total * DEVICE_SHARE), DEVICE_MOST_BYTES)
    return PassLimits(memory_bytes=most, worth_memory=WORTH_DEVICE_MEMORY)


def _one_spelling(uri: str) -> str:
    """Return the absolute path of a local scene: `./a.tif` and `a.tif` are one plan."""
    path = absolute(uri)
    is_missing = Path(path).is_absolute() and not Path(path).exists()
    return uri if is_missing or not uri else path  # errors tell of it as it was written


def with_engine(job: Job, engine: str | None) -> Job:
    """Return a job that uses a certain engine; the same where it cannot be used here, or for None.

    Engines round differently: the one that began a run has to end it.
    """
    use = job.plan.model
    if engine is None or engine == use.engine:
        return job
    try:
        choice = choose_engine(job.models, job.devices[0], engine, use.precision)
    except TilingSegError:
        return job  # the store names the difference
    use = replace(
        use,
        engine=choice.engine,
        engine_version=choice.version,
        engine_reason="it began this run",
    )
    return replace(job, plan=replace(job.plan, model=use))


def load_once(options: RunOptions) -> LoadedModel:
    """Load the first model of a run; the next run of this process gets the same while its file is.

    Raises:
        ModelError: there is no such model, or the file is no model.
    """
    first, script = options.model, options.torchscript
    return _load(str(first), options.model_sha256, _stamp(first), script)


def _load_all(options: RunOptions) -> tuple[LoadedModel, ...]:
    script = options.torchscript
    others = (_load(str(name), None, _stamp(name), script) for name in options.further_models)
    models = load_once(options), *others
    check_alike(models)
    return models


@lru_cache(maxsize=8)
def _load(
    model: str, sha256: str | None, stamp: tuple[int, int] | None, script: bool
) -> LoadedModel:
    return load_model(model, sha256=sha256, allow_torchscript=script)


def _stamp(model: str | Path) -> tuple[int, int] | None:
    """Return what changes when a model file does; None: a bundled model, or no file."""
    try:
        state = Path(model).stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size


def estimate_job(job: Job) -> Estimate:
    """Estimate memory and time of a job from a measured forward pass; no pixel is read."""
    plan = job.plan
    height, width = plan.grid.tile_shape
    n_bands = len(plan.scene.bands)
    shape = (plan.tiling.batch_size, n_bands, height, width)
    empty = Scaling(low=(0.0,) * n_bands, high=(1.0,) * n_bands, source="none")
    engine = job.engine(job.devices[0], empty)
    pixels = np.zeros(shape, dtype=plan.scene.dtype)
    valid = np.ones((shape[0], height, width), dtype=bool)
    tile = plan.grid.tile(plan.grid.n_rows // 2, plan.grid.n_cols // 2)
    used = tile.core if plan.tiling.stitching == "exact" else tile.window
    part = used.slices_in(tile.window)
    seconds = []
    for _ in range(2):  # the first pass also prepares the device
        start = time.perf_counter()
        found = engine.probabilities(pixels, valid, part)
        float(found[0, 0, 0, 0])  # waits for the device
        seconds.append(time.perf_counter() - start)
    return estimate_run(plan, min(seconds), job.workers, len(job.devices))


def _choice(use: ModelUse) -> EngineChoice:
    return EngineChoice(
        engine=use.engine,
        version=use.engine_version,
        precision=use.precision,
        reason=use.engine_reason,
    )


def _area(options: RunOptions, scene: Scene) -> BaseGeometry | None:
    if options.box is not None and options.area_file is not None:
        raise PlanError("give a box or a file as the area of interest, not both")
    if options.box is not None:
        return area_from_box(scene, options.box)
    if options.area_file is not None:
        return area_from_file(scene, Path(options.area_file))
    return None


def _class_indexes(wanted: tuple[str, ...] | None, spec: ModelSpec) -> tuple[int, ...]:
    if wanted == ():
        raise PlanError(f"no class is named; model {spec.name!r} has {', '.join(spec.classes)}")
    for name in wanted or ():
        _check_class(name, spec)
    return tuple(
        index for index, name in enumerate(spec.classes) if wanted is None or name in wanted
    )


def _thresholds(options: RunOptions, spec: ModelSpec) -> tuple[float, ...]:
    chosen = dict(zip(spec.classes, spec.thresholds, strict=True))
    for name, value in options.thresholds:
        if not 0 < value < 1:
            raise PlanError(f"threshold {value:g} must lie between 0 and 1")
        if name is None:
            chosen = dict.fromkeys(chosen, value)
        else:
            _check_class(name, spec)
            chosen[name] = value
    return tuple(chosen.values())


def _check_class(name: str, spec: ModelSpec) -> None:
    if name not in spec.classes:
        raise PlanError(
            f"model {spec.name!r} has no class {name!r}; it has {', '.join(spec.classes)}"
        )
