"""Road centrelines, measured: agreement with drawn towns and real masks, gaps, speed.

Run as `python -m tests.bench.bench_roads`. Figures of real masks need the folder that
`TILINGSEG_DATA` names.
"""

import os
import resource
import time
from pathlib import Path

import numpy as np
from PIL import Image
from shapely import LineString
from skimage.morphology import skeletonize

from tests.drawn_roads import ArrayMask, cut_gaps, draw_mask, draw_network
from tilingseg.metrics.roads import RoadAgreement, path_agreement, road_agreement
from tilingseg.vectorize.centerlines import centerlines
from tilingseg.vectorize.network import trace_network
from tilingseg.vectorize.roads import RoadOptions
from tilingseg.vectorize.skeleton import SkeletonPixels


def bare_skeleton(mask):
    """Return the graph of a library's skeleton as lines, with nothing cleaned."""
    rows, cols = np.nonzero(skeletonize(mask.astype(bool)))
    pixels = SkeletonPixels(rows=rows, cols=cols, radii_m=np.ones(len(rows)), probabilities=None)
    network = trace_network(pixels, mask.shape[1], (1.0, 1.0), ())
    return [LineString(edge.points) for edge in network.edges.values()]


def cleaned(mask, **options):
    return [f.geometry for f in centerlines(ArrayMask(mask), 1, RoadOptions(**options))]


def towns():
    print("drawn towns of 0.64 km², 1 m a pixel, 6 seeds: completeness, correctness at 3 m; APLS")
    for gap_m, rough_m in ((0, 0), (0, 0.7), (8, 0), (8, 0.7)):
        for name, find in (("bare skeleton", bare_skeleton), ("centerlines", cleaned)):
            rows = []
            for seed in range(6):
                network = draw_network(seed)
                mask = draw_mask(network, seed=seed, rough_m=rough_m)
                mask = cut_gaps(mask, network, seed, gap_m) if gap_m else mask
                truth, found = [line for line, _ in network], find(mask)
                lines = road_agreement(truth, found, buffer_m=3)
                ways = path_agreement(truth, found)
                rows.append((lines.completeness, lines.correctness, ways.apls))
            mean, worst = np.mean(rows, axis=0), np.min(rows, axis=0)
            print(
                f"  gaps {gap_m} m, edges ±{rough_m} m  {name:14}"
                + "".join(f" {m:.3f} (≥ {w:.3f})" for m, w in zip(mean, worst, strict=True))
            )


def real_masks():
    default = Path(__file__).parents[3] / "shared/data"
    folder = Path(os.environ.get("TILINGSEG_DATA", default)) / "massachusetts_roads/masks"
    paths = sorted(folder.glob("*.png"))
    if not paths:
        print(f"no Massachusetts masks in {folder}")
        return
    total = np.zeros(4)
    for path in paths:
        mask = (np.array(Image.open(path)) == 1).astype(np.uint8)
        one = road_agreement(bare_skeleton(mask), cleaned(mask), buffer_m=3)
        total += (one.truth_m, one.found_m, one.truth_matched_m, one.found_matched_m)
    names = ("truth_m", "found_m", "truth_matched_m", "found_matched_m")
    all_of_them = RoadAgreement(**dict(zip(names, total.tolist(), strict=True)))
    print(
        f"{len(paths)} Massachusetts masks, {total[1] / 1000:.0f} km, against their bare skeleton: "
        f"completeness {all_of_them.completeness:.4f}, correctness {all_of_them.correctness:.4f}"
    )


def speed():
    town = draw_mask(draw_network(0, 1600.0), 1600.0)
    for repeats, region_px in ((4, 2048), (4, 1024), (2, 2048)):
        scene = np.tile(town, (repeats, repeats))
        start, cpu = time.perf_counter(), time.process_time()
        features = list(centerlines(ArrayMask(scene), 1, RoadOptions(region_px=region_px)))
        wall_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
        length_m = sum(dict(feature.properties)["length_m"] for feature in features)
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{scene.size / 1e6:.1f} Mpx with {length_m / 1000:.0f} km, regions {region_px} px: "
            f"{scene.size / 1e6 / wall_s:.1f} Mpx/s, {length_m / 1000 / wall_s:.0f} km/s "
            f"({scene.size / 1e6 / cpu_s:.1f} Mpx a CPU second), peak {peak_mib:.0f} MiB"
        )


if __name__ == "__main__":
    towns()
    real_masks()
    speed()
