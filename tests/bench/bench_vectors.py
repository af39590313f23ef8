"""Tracing and writing, measured: against GDAL's polygonizer, and as masks grow to 1 M shapes.

Run as `python -m tests.bench.bench_vectors`, in about ten minutes and 2 GB of disk. All figures are
processor seconds (user + system), which other work on the machine disturbs less than wall time.
`gdal_polygonize.py` (Debian: python3-gdal) is left out where it is not installed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import rasterio
import shapely
from affine import Affine
from rasterio.features import rasterize, shapes
from rasterio.windows import Window
from scipy.ndimage import gaussian_filter

from tilingseg.readers.mask_file import open_mask
from tilingseg.vectorize.trace import trace

SIDE_PX = 8192
TURNS = 3
POLYGONIZE = shutil.which("gdal_polygonize.py", path="/usr/bin")


def draw(cell_px, seed=0):
    """A turned box with wobbly edges in every cell of a mask, as a network finds buildings."""
    rng = np.random.default_rng(seed)
    centres = np.arange(cell_px / 2, SIDE_PX, cell_px)
    boxes = []
    for x in centres:
        for y in centres:
            w, h = rng.uniform(0.25, 0.6, 2) * cell_px
            turned = shapely.affinity.rotate(
                shapely.box(-w / 2, -h / 2, w / 2, h / 2), rng.uniform(0, 90)
            )
            boxes.append(shapely.affinity.translate(turned, x, y))
    above = Affine(1, 0, 0, 0, 1, -1)  # the identity would mean "lies nowhere"
    drawn = rasterize(boxes, (SIDE_PX + 1, SIDE_PX), transform=above, dtype="uint8")[1:]
    soft = gaussian_filter(drawn.astype(np.float32), cell_px / 32)
    wobble = gaussian_filter(rng.standard_normal(drawn.shape).astype(np.float32), 2.5)
    return (soft + 0.12 * wobble / wobble.std() > 0.5).astype(np.uint8)


def write(path, mask, repeats=1):
    """Write a mask, repeated along both axes."""
    profile = {
        "driver": "GTiff",
        "count": 1,
        "dtype": "uint8",
        "crs": "EPSG:32633",
        "height": SIDE_PX * repeats,
        "width": SIDE_PX * repeats,
        "transform": Affine(0.3, 0, 5e5, 0, -0.3, 5e6),
        "compress": "deflate",
        "tiled": True,
        "blockxsize": 512,
        "blockysize": 512,
    }
    with rasterio.open(path, "w", **profile) as dataset:
        for i in range(repeats):
            for j in range(repeats):
                dataset.write(mask, 1, window=Window(j * SIDE_PX, i * SIDE_PX, SIDE_PX, SIDE_PX))
    return path


def of_process(*command):
    """Return processor seconds and peak memory (MiB) of a whole process."""
    process = subprocess.Popen(
        [*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, command
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def vectorize(path, folder):
    options = ("-o", folder, "--overwrite", "--formats", "fgb")
    return of_process(sys.executable, "-m", "tilingseg", "vectorize", path, *options)


def by_us(path):
    start = time.process_time()
    mask = open_mask(path)
    count = sum(1 for _ in trace(mask, 1))
    return count, time.process_time() - start


def by_gdal(path):
    start = time.process_time()
    with rasterio.open(path) as dataset:
        mask = dataset.read(1)
        found = shapes(mask, mask == 1, transform=dataset.transform)
        count = sum(1 for shape, _ in found if shapely.geometry.shape(shape))
    return count, time.process_time() - start


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = write(folder / "mask.tif", draw(64))
        pairs = [(by_us(path), by_gdal(path)) for _ in range(TURNS)]
        ((count, _), (same, _)) = pairs[0]
        assert count == same
        ours, theirs = (median(pair[k][1] for pair in pairs) for k in (0, 1))
        print(
            f"tracing {SIDE_PX}², {count:,} shapes, read included: {ours:.2f} s, whole-raster "
            f"shapes {theirs:.2f} s: {theirs / ours:.1f} times"
        )
        for repeats in (1, 2):
            if POLYGONIZE:
                path = write(folder / "mask.tif", draw(64), repeats)
                turns = range(TURNS if repeats == 1 else 1)
                scratch = folder / "gdal.fgb"
                pairs = []
                for _ in turns:
                    scratch.unlink(missing_ok=True)
                    theirs = of_process(POLYGONIZE, "-q", path, "-f", "FlatGeobuf", scratch)
                    pairs.append((vectorize(path, folder), theirs))
                ours, theirs = (median(pair[k][0] for pair in pairs) for k in (0, 1))
                print(
                    f"{SIDE_PX * repeats}² to FlatGeobuf, whole processes: {ours:.1f} s, "
                    f"gdal_polygonize {theirs:.1f} s: {theirs / ours:.1f} times"
                )
        dense = draw(32)
        for repeats in (1, 2, 4):
            path = write(folder / "mask.tif", dense, repeats)
            count = 65_536 * repeats**2
            seconds, peak_mib = vectorize(path, folder)
            print(
                f"{SIDE_PX * repeats}² with about {count:,} shapes to FlatGeobuf: {seconds:.1f} s, "
                f"{seconds / count * 1e6:.0f} µs a shape, peak {peak_mib:.0f} MiB"
            )


if __name__ == "__main__":
    main()
