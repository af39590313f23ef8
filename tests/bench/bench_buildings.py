"""Figures for building footprints: how exact, how many corners, how fast.

usage: python -m tests.bench.bench_buildings [--seeds 0 1] [--real FOLDER] [--others]
       [--counts 10000 100000 1000000] [--workers 2]

Draws scenes with exact truth, wobbles them as a network would, and prints tables in Markdown:
synthetic kinds, rows of touching houses, real footprints laid out anew, speed. Real ones need
`--real`, a folder with footprints as polygons in GeoJSON files, one row each. `--others` adds a
column of another tool: `pip install buildingregulariser` first.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import threading
import time
from pathlib import Path

import geopandas
import numpy as np
import psutil
import shapely
from shapely import affinity

from tests.bench.building_scenes import TOWN, Observation, Truth, draw, lay_out, observe, set_apart
from tilingseg.metrics.polygons import compare_footprints
from tilingseg.records import Georef
from tilingseg.vectorize.buildings import BuildingOptions, footprints
from tilingseg.vectorize.trace import TraceOptions, trace

GSD_M = 0.5
"""Pixel size of the drawn scenes, metres."""


class ArrayMask:
    """A mask in memory."""

    classes = ("building",)

    def __init__(self, mask, probability=None, gsd_m=GSD_M):
        self.mask, self.probability = mask, probability
        self.height, self.width = mask.shape
        self.georef = Georef(crs=None, transform=(1, 0, 0, 0, 1, 0), pixel_m=(gsd_m, gsd_m))

    def read_mask(self, window):
        return self.mask[window.row : window.row_stop, window.col : window.col_stop]

    def read_probability(self, class_index, window):
        if self.probability is None:
            return None
        return self.probability[window.row : window.row_stop, window.col : window.col_stop]


def vectorize(mask, probability=None, options=None, gsd_m=GSD_M):
    """Return the traced polygons, the footprints and the seconds that the latter took."""
    reader = ArrayMask(mask, probability, gsd_m)
    shapes = [shape for shape in trace(reader, 1) if shape.polygon.area >= 16]
    start = time.perf_counter()
    fitted = [f.geometry for f in footprints(shapes, reader, options)]
    return [shape.polygon for shape in shapes], fitted, time.perf_counter() - start


def ious(truth, found):
    """Return the best IoU of every true polygon and which found one has it (-1: none)."""
    best, which = np.zeros(len(truth)), np.full(len(truth), -1)
    if not found:
        return best, which
    true_array, found_array = np.array(truth, object), np.array(found, object)
    i, j = shapely.STRtree(found_array).query(true_array, predicate="intersects")
    common = shapely.area(shapely.intersection(true_array[i], found_array[j]))
    iou = common / (shapely.area(true_array[i]) + shapely.area(found_array[j]) - common)
    order = np.argsort(iou, kind="stable")
    best[i[order]], which[i[order]] = iou[order], j[order]
    return best, which


def regularised_elsewhere(polygons):
    """Return what buildingregulariser makes of traced polygons."""
    from buildingregulariser import regularize_geodataframe

    frame = geopandas.GeoDataFrame(geometry=polygons, crs="EPSG:32633")
    result = regularize_geodataframe(frame, simplify_tolerance=1.0, parallel_threshold=1.0)
    return list(result.geometry.explode(ignore_index=True))


def kinds_table(truth: Truth, seen: Observation, others: bool) -> list[dict]:
    """Return one row a kind of building: IoU of the traced outline and of the footprints."""
    columns = {}
    traced, fitted, _ = vectorize(seen.noisy)
    columns["traced"], columns["footprint"] = traced, fitted
    columns["footprint, probability"] = vectorize(seen.noisy, seen.probability)[1]
    exact, fitted_exact, _ = vectorize(seen.exact)
    columns["exact: traced"], columns["exact: footprint"] = exact, fitted_exact
    if others:
        columns["buildingregulariser"] = regularised_elsewhere(traced)
    scores = {name: ious(truth.polygons, found) for name, found in columns.items()}
    kinds, rows = np.array(truth.kinds), []
    for kind in dict.fromkeys(truth.kinds):
        chosen = kinds == kind
        row = {"kind": kind, "n": int(chosen.sum())}
        for name, (iou, _) in scores.items():
            row[name] = float(iou[chosen].mean())
        which = scores["footprint"][1][chosen]
        corners = [len(shapely.get_coordinates(fitted[k])) - 1 for k in which if k >= 0]
        row["corners"] = float(np.mean(corners)) if corners else 0.0
        rows.append(row)
    return rows


def rows_of_houses(seed: int, n_rows: int) -> dict:
    """Return the instance scores of rows of touching houses."""
    truth = draw(seed, n_rows, GSD_M, kinds=("row",))
    seen = observe(truth, seed, party_wall=0.35)
    _, fitted, _ = vectorize(seen.noisy, seen.probability)
    return summary("rows of houses", truth.polygons, fitted)


def summary(name, truth, found) -> dict:
    """Return one line of figures about a set of footprints."""
    agreement = compare_footprints(found, truth)
    array = np.array(found, object)
    i, j = shapely.STRtree(array).query(array, predicate="overlaps")
    return {
        "scene": name,
        "true": agreement.n_true,
        "found": agreement.n_found,
        "F1": agreement.f1,
        "IoU": agreement.iou,
        "PoLiS px": agreement.polis_m,
        "rotation deg": agreement.rotation_deg,
        "corners": agreement.vertex_ratio,
        "split": agreement.n_split,
        "invalid": int((~shapely.is_valid(array)).sum()),
        "overlaps": int((i < j).sum()),
    }


def real_layouts(folder: Path, gsd_m: float) -> list[tuple[str, Truth]]:
    """Return the footprints of all GeoJSON files of a folder, in pixels."""
    layouts = []
    for path in sorted(folder.rglob("*.geojson")):
        frame = geopandas.read_file(path)
        polygons = frame.to_crs(frame.estimate_utm_crs()).geometry.explode()
        scaled = [affinity.scale(p, 1 / gsd_m, -1 / gsd_m, origin=(0, 0)) for p in polygons]
        layouts.append((path.stem, lay_out(scaled)))
    return layouts


def real_table(folder: Path, gsd_m: float, others: bool, apart: bool) -> list[dict]:
    """Return one row a file of real footprints: mean IoU before and after the fit.

    With `apart` the same footprints stand far from each other: then the shapes alone are judged,
    not which neighbours have merged into one blob.
    """
    rows = []
    for name, truth in real_layouts(folder, gsd_m):
        layout = set_apart(truth) if apart else truth
        seen = observe(layout, 5)
        traced, fitted, _ = vectorize(seen.noisy, gsd_m=gsd_m)
        row = {"file": name, "n": len(layout.polygons)}
        row["traced"] = float(ious(layout.polygons, traced)[0].mean())
        row["footprint"] = float(ious(layout.polygons, fitted)[0].mean())
        corners = shapely.get_num_coordinates(fitted) - 1
        row["corners"] = float(corners.mean())
        fitted = vectorize(seen.noisy, seen.probability, gsd_m=gsd_m)[1]
        row["footprint, probability"] = float(ious(layout.polygons, fitted)[0].mean())
        if others:
            elsewhere = regularised_elsewhere(traced)
            row["buildingregulariser"] = float(ious(layout.polygons, elsewhere)[0].mean())
        rows.append(row)
    return rows


class RepeatedMask(ArrayMask):
    """A small scene side by side with itself, as large as one likes in little memory."""

    def __init__(self, tile, n_down, n_across, gsd_m=GSD_M):
        super().__init__(tile, None, gsd_m)
        self.height, self.width = tile.shape[0] * n_down, tile.shape[1] * n_across

    def read_mask(self, window):
        rows = np.arange(window.row, window.row_stop) % len(self.mask)
        cols = np.arange(window.col, window.col_stop) % self.mask.shape[1]
        return self.mask[rows[:, None], cols]


def speed_table(counts: list[int], workers: int) -> list[dict]:
    """Return time and memory from mask to footprints for towns of growing size.

    Houses stand 20 m apart; time is that of tracing and fitting, by all processes together.
    """
    truth = draw(0, 50, GSD_M, kinds=TOWN, step_m=20.0)
    tile = observe(truth, 0).noisy
    rows = []
    for count in counts:
        n = max(1, round((count / len(truth.polygons)) ** 0.5))
        reader = RepeatedMask(tile, max(1, round(count / len(truth.polygons) / n)), n)
        with Usage() as usage:
            shapes = trace(reader, 1, TraceOptions(workers=workers))
            made = sum(1 for _ in footprints(shapes, reader, BuildingOptions(workers=workers)))
        rows.append(
            {
                "buildings": made,
                "Mpx": reader.height * reader.width / 1e6,
                "s": usage.wall_s,
                "CPU s": usage.cpu_s,
                "per s": made / usage.wall_s,
                "ms CPU each": 1000 * usage.cpu_s / made,
                "peak MB": usage.peak_mb,
            }
        )
    return rows


class Usage:
    """Wall and processor seconds of a block and the memory at its peak, all processes together."""

    def __enter__(self):
        self._cpu_s, self.peak_mb, self._me = {}, 0.0, psutil.Process()
        self._sample()
        self._before_s = sum(self._cpu_s.values())
        self.wall_s = -time.perf_counter()
        self._done = threading.Event()
        self._watch = threading.Thread(target=self._keep_sampling)
        self._watch.start()
        return self

    def __exit__(self, *error):
        self.wall_s += time.perf_counter()
        self._done.set()
        self._watch.join()
        self.cpu_s = sum(self._cpu_s.values()) - self._before_s

    def _keep_sampling(self):
        while not self._done.wait(0.25):
            self._sample()
        self._sample()

    def _sample(self):
        memory = 0
        for process in (self._me, *self._me.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                times = process.cpu_times()
                self._cpu_s[process.pid] = times.user + times.system
                memory += process.memory_full_info().pss  # shared pages count once
        self.peak_mb = max(self.peak_mb, memory / 1e6)


def print_table(rows: list[dict]) -> None:
    """Print rows as a Markdown table."""
    names = list(rows[0])
    print("| " + " | ".join(names) + " |")
    print("|" + "---|" * len(names))
    for row in rows:
        cells = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()]
        print("| " + " | ".join(cells) + " |")
    print()


def main(arguments: list[str] | None = None) -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--real", type=Path, help="folder with footprints in GeoJSON files")
    parser.add_argument(
        "--gsd-m", type=float, default=0.3, help="pixel size that these are seen at"
    )
    parser.add_argument("--others", action="store_true", help="needs buildingregulariser")
    parser.add_argument("--counts", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args(arguments)
    if args.others and importlib.util.find_spec("buildingregulariser") is None:
        parser.error("--others needs: pip install buildingregulariser")
    if args.real and not any(args.real.rglob("*.geojson")):
        parser.error(f"--real {args.real}: there is no GeoJSON file in it")
    for seed in args.seeds:
        truth = draw(seed)
        print_table(kinds_table(truth, observe(truth, seed), args.others))
        print_table([rows_of_houses(seed, 30)])
    if args.real:
        for apart in (False, True):
            print_table(real_table(args.real, args.gsd_m, args.others, apart))
    if args.counts:
        print_table(speed_table(args.counts, args.workers))


if __name__ == "__main__":
    main()
