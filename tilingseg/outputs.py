"""How the folder of results is filled.

    <scene>_mask.tif            class mask, COG
    <scene>_probability.tif     on request
    <scene>_mask.zarr           on request
    <scene>_<layer>.geojson     vectors, one file a layer and format
    preview.png                 scene, mask and outlines
    run.json                    request, plan, versions, counts, seconds; written last
    .tilingseg-work/            the work store; gone when the run is complete

`run.json` is the sign of a complete run. Between the last output and `run.json` the report waits
in the work store, so that a run killed there is completed by the next call without doing anything
twice. Outputs that go to an object store are written on this machine, then copied.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilingseg.atomic import put_in_place, write_whole
from tilingseg.background import Background
from tilingseg.errors import OutputError
from tilingseg.export import (
    draw_outlines,
    write_mask_cog,
    write_mask_zarr,
    write_preview,
    write_probability_cog,
)
from tilingseg.output_folder import OutputFolder
from tilingseg.places import is_remote, refusals, remove, why
from tilingseg.progress import silent
from tilingseg.quicklook import Lattice, put_together
from tilingseg.records import RunReport, to_json, tuples
from tilingseg.vector_outputs import Results, Wanted, write_vectors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from tilingseg.output_folder import OutputOptions
    from tilingseg.progress import Progress
    from tilingseg.quicklook import Quicklook
    from tilingseg.records import RegionReport
    from tilingseg.store import WorkStore
    from tilingseg.vectorize.layers import Gathered

PACKAGES = ("torch", "numpy", "rasterio", "zarr", "shapely", "geopandas", "pyproj")
WAITING = "outputs"
"""Folder in the work store where finished outputs wait until all are there."""
MAX_OUTLINES = 50_000
"""Outlines drawn into the preview; more would fill it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """What is settled before a store is published."""

    request: Mapping[str, Any]
    """What was asked for, JSON types; see `request`."""
    n_resumed: int = 0
    """Regions that an earlier run had completed."""
    gathered: Gathered | None = None
    """Parts of the vectors that are there already."""


def publish(
    store: WorkStore,
    folder: OutputFolder,
    options: OutputOptions,
    before: Before,
    progress: Progress = silent,
) -> RunReport:
    """Write all outputs of a store whose regions are complete, then the report, then clean up.

    Args:
        store: masks and probabilities, and what the regions saw of the scene.
        folder: where the outputs go.
        options: what is written.
        before: what is settled.
        progress: told how far the vectors are.

    Raises:
        OutputError: the disk is full or gone; the store is kept.
    """
    results, model = Results(), store.plan.model
    wanted = Wanted(
        class_indexes=model.class_indexes,
        thresholds=model.thresholds,
        n_outlines=MAX_OUTLINES,
        gathered=before.gathered,
    )
    with _workshop(store, folder) as waiting:
        with results.clock("vectorize"):
            outlines = write_vectors(store, wanted, waiting, options, results, progress)
        with results.clock("preview"):
            seen, extent = _seen(store), store.plan.extent
            drawn = draw_outlines(outlines, extent, seen.valid.shape)
        with Background("export") as beside:
            rasters = beside.begin(lambda: _write_rasters(store, waiting, options, results))
            with results.clock("preview"):
                write_preview(waiting.preview, seen, len(store.classes), extent, drawn)
            results.outputs = [*rasters.result(), *results.outputs]
        results.outputs.append(("preview", str(waiting.preview)))
    results.outputs = [(kind, str(folder.path / Path(path).name)) for kind, path in results.outputs]
    results.outputs.append(("report", str(folder.report)))
    text = _report_text(store, _report(store, results, before.n_resumed), before.request)
    store.mark_finished(text)
    return finish(store, folder, text)


def _seen(store: WorkStore) -> Quicklook:
    """Return the reduced copy of the scene and its mask that the regions left."""
    plan = store.plan
    parts = ((region.core, store.view(region.index)) for region in plan.regions())
    return put_together(Lattice(extent=plan.extent), plan.scene, parts)


@contextmanager
def _workshop(store: WorkStore, folder: OutputFolder) -> Iterator[OutputFolder]:
    """Give an empty folder of this machine; what is written there then waits in the work store."""
    waiting = OutputFolder(path=store.folder / WAITING, scene=folder.scene)
    try:
        remove(waiting.path)  # of a run that was killed in here
        if not is_remote(waiting.path):
            waiting.make()
        with waiting.at_hand() as here:
            yield here
    except refusals() as error:
        raise OutputError(f"cannot write the outputs of {folder.path}: {why(error)}") from error


def finish(store: WorkStore, folder: OutputFolder, text: str) -> RunReport:
    """Put outputs and report of a finished store in place and remove the store.

    Outputs of an earlier run that this one has not written again are removed with it.
    """
    earlier, waiting = read_report(folder), store.folder / WAITING
    names = {Path(path).name for _, path in _report_of(text).outputs}
    try:
        for path in sorted(waiting.iterdir()) if waiting.exists() else ():
            put_in_place(path, folder.path / path.name)
        for _, old in earlier.outputs if earlier is not None else ():
            if Path(old).name not in names:
                remove(folder.path / Path(old).name)
    except refusals() as error:
        raise OutputError(
            f"cannot put the outputs into {folder.path}: {why(error)}; repeat the command to go on"
        ) from error
    write_whole(folder.report, text)
    store.remove()
    return _report_of(text)


def read_report(folder: OutputFolder) -> RunReport | None:
    """Return the report of a complete run; None: there is none.

    Raises:
        OutputError: the file is no report.
    """
    try:
        text = folder.report.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except refusals(ValueError) as error:
        raise OutputError(f"{folder.report} cannot be read: {why(error)}") from error
    return report_in(folder, text)


def report_in(folder: OutputFolder, text: str) -> RunReport:
    """Return the report that the text of `run.json` holds.

    Raises:
        OutputError: it is no report.
    """
    try:
        return _report_of(text)
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"{folder.report} is no report of a run ({error}); remove the folder to start anew"
        ) from error


def _report_of(text: str) -> RunReport:
    raw = json.loads(text)["report"]
    return RunReport(**{key: tuples(value) for key, value in raw.items()})


def _write_rasters(
    store: WorkStore, folder: OutputFolder, options: OutputOptions, results: Results
) -> list[tuple[str, str]]:
    """Write what is wanted as rasters and return (kind, path) pairs."""
    extent, tags, written = store.plan.extent, _tags(store), list[tuple[str, str]]()
    with results.clock("export"):
        if "cog" in options.formats:
            path = folder.of_layer("mask", ".tif")
            write_mask_cog(path, store, extent, tags)
            written += [("mask", str(path)), ("legend", f"{path}.aux.xml")]
            if options.probability:
                path = folder.of_layer("probability", ".tif")
                write_probability_cog(path, store, extent, tags)
                written.append(("probability", str(path)))
        if "zarr" in options.formats:
            path = folder.of_layer("mask", ".zarr")
            write_mask_zarr(path, store, extent, tags, probability=options.probability)
            written.append(("mask", str(path)))
    return written


def _tags(store: WorkStore) -> tuple[tuple[str, str], ...]:
    """Return the metadata that goes into rasters: what made them, no date."""
    plan = store.plan
    model, tiling, source = plan.model, plan.tiling, plan.scene.source
    # Without a CRS, whoever reads a result finds its pixels in the scene's file by this.
    placed = source.crs is not None
    place = (
        () if placed else (("TILINGSEG_SCENE_TRANSFORM", " ".join(map(repr, source.transform))),)
    )
    return (
        ("TILINGSEG_VERSION", plan.software),
        ("TILINGSEG_SCENE", plan.scene.name),
        ("TILINGSEG_MODEL", model.spec.name),
        ("TILINGSEG_MODEL_SHA256", model.sha256),
        ("TILINGSEG_THRESHOLDS", ",".join(f"{value:g}" for value in model.thresholds)),
        ("TILINGSEG_STITCHING", tiling.stitching),
        ("TILINGSEG_TILE_SIZE", str(tiling.grid.tile_size_px)),
        ("TILINGSEG_OVERLAP", str(tiling.grid.overlap_px)),
        ("TILINGSEG_PRECISION", model.precision),
        ("TILINGSEG_ENGINE", f"{model.engine} {model.engine_version}"),
        *place,
    )


def _report(store: WorkStore, results: Results, n_resumed: int) -> RunReport:
    plan, regions = store.plan, tuple(store.completed().values())
    seconds: Counter[str] = Counter()
    for region in regions:
        seconds.update(dict(region.seconds))
    seconds.update(results.seconds)
    in_pixels = plan.area_wkt is not None and plan.scene.georef.crs is None
    notes = (
        *plan.scene.notes,
        *(["the area of interest is in pixels, as the scene has no CRS"] * in_pixels),
        f"tiles are {'stitched exactly' if plan.tiling.stitching == 'exact' else 'blended'}: "
        f"{plan.tiling.reason}",
        f"values are scaled by {store.scaling.source}",
        f"engine {plan.model.engine} in {plan.model.precision}: {plan.model.engine_reason}",
    )
    n_valid = _total(regions, lambda region: region.n_pixels_valid)
    return RunReport(
        scene=plan.scene.uri,
        outputs=tuple(results.outputs),
        n_tiles=_total(regions, lambda region: region.n_tiles),
        n_tiles_nodata=_total(regions, lambda region: region.n_tiles_nodata),
        n_tiles_outside=_total(regions, lambda region: region.n_tiles_outside),
        n_regions_resumed=n_resumed,
        n_pixels_valid=n_valid,
        n_pixels_nodata=plan.extent.area - n_valid,
        n_features=tuple(results.n_features.items()),
        left_out=tuple(sorted(results.left_out.items())),
        notes=notes,
        seconds=tuple((stage, round(spent, 3)) for stage, spent in seconds.items()),
    )


def _report_text(store: WorkStore, report: RunReport, request: Mapping[str, Any]) -> str:
    return json.dumps(
        {
            "report": to_json(report),
            "request": request,
            "plan": to_json(store.plan),
            "scaling": to_json(store.scaling),
            "versions": _versions(),
        },
        indent=1,
    )


@cache
def _versions() -> dict[str, str]:
    """Look the packages up once: each time costs as much as the mask of a small scene."""
    return {name: version(name) for name in PACKAGES}


def _total(regions: Iterable[RegionReport], count: Callable[[RegionReport], int]) -> int:
    return sum(count(region) for region in regions)
