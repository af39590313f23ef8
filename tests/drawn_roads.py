"""Road networks drawn from a seed, with their exact centrelines, and the masks they give."""

import numpy as np
import shapely
from rasterio.features import rasterize
from scipy import ndimage
from shapely import LineString
from shapely.ops import substring

from tilingseg.records import Georef


class ArrayMask:
    """A MaskReader over arrays (height, width)."""

    def __init__(self, labels, probability=None, pixel_m=(1.0, 1.0), classes=("road",)):
        self.labels = np.asarray(labels, dtype=np.uint8)
        self.probability = probability
        self.height, self.width = self.labels.shape
        self.georef = Georef(crs=None, transform=(1, 0, 0, 0, 1, 0), pixel_m=pixel_m)
        self.classes = classes
        self.largest_px = 0

    def read_mask(self, window):
        self.largest_px = max(self.largest_px, window.area)
        return self.labels[window.row : window.row_stop, window.col : window.col_stop]

    def read_probability(self, class_index, window):
        if self.probability is None:
            return None
        return self.probability[window.row : window.row_stop, window.col : window.col_stop]


def draw_network(seed, side_m=800.0):
    """Return (line, width in metres) pairs of a town: bent blocks, dead ends, two long roads.

    Lines meet in shared vertices, and every crossing is a junction.
    """
    rng = np.random.default_rng(seed)
    n = int(side_m // 100) + 1
    # Only the long roads leave the scene: one that runs along its edge is half a road.
    step = (side_m - 80) / (n - 1)
    nodes = np.stack(np.meshgrid(np.arange(n), np.arange(n), indexing="ij"), axis=-1) * step
    nodes = nodes + 40 + rng.uniform(-22, 22, nodes.shape)
    roads = []
    for i in range(n):
        for j in range(n):
            for k, m in ((i + 1, j), (i, j + 1)):
                if k < n and m < n and rng.random() < 0.8:
                    bend = rng.uniform(-12, 12) if rng.random() < 0.5 else 0.0
                    roads.append((_bent(nodes[i, j], nodes[k, m], bend), rng.choice([5, 6, 7, 9])))
    lanes = []
    for k in rng.choice(len(roads), len(roads) // 5, replace=False):
        line, width = roads[k]
        line, foot = _with_vertex(line, rng.uniform(0.35, 0.65))
        roads[k] = (line, width)
        along = np.diff(np.array(line.coords)[[0, -1]], axis=0)[0]
        across = np.array([-along[1], along[0]]) / np.hypot(*along) * rng.choice([-1, 1])
        lanes.append((LineString([foot, foot + across * rng.uniform(25, 45)]), 5))
    for slope in (-1, 1):
        a = rng.uniform(0.1, 0.5) * side_m
        b = a + rng.uniform(0.4, 0.6) * side_m
        ends = np.array([[-50, a], [side_m + 50, b]][::slope])
        ends[:, 0] = (-50, side_m + 50)
        roads.append((_bent(ends[0], ends[1], 20), 12))
    # A lane that ends just short of another road could as well be a gap: nobody could tell.
    for lane, width in lanes:
        tip = lane.interpolate(lane.length)
        if sum(road.distance(tip) < 20 for road, _ in roads + lanes) == 1:
            roads.append((lane, width))
    return _connected(roads, shapely.box(0, 0, side_m, side_m))


def _bent(start, stop, bend_m):
    t = np.linspace(0, 1, 12 if bend_m else 2)[:, None]
    along = stop - start
    across = np.array([-along[1], along[0]]) / np.hypot(*along)
    return LineString(start + t * along + 4 * bend_m * t * (1 - t) * across)


def _with_vertex(line, share):
    """Return a line with one more vertex, so that another can start exactly there."""
    foot = line.interpolate(share, normalized=True)
    points, at = np.array(line.coords), line.project(foot)
    before = [line.project(shapely.Point(point)) < at for point in points]
    foot = np.array(foot.coords[0])
    return LineString([*points[: sum(before)], foot, *points[sum(before) :]]), foot


def _connected(roads, frame):
    """Split roads where they cross, and keep what lies in the frame."""
    pieces = shapely.node(shapely.MultiLineString([line for line, _ in roads]))
    pieces = shapely.intersection(pieces, frame)
    lines = [line for line in shapely.get_parts(pieces) if line.length > 0]
    middles = [line.interpolate(0.5, normalized=True) for line in lines]
    tree = shapely.STRtree([line for line, _ in roads])
    return [
        (line, float(roads[tree.nearest(middle)][1]))
        for line, middle in zip(lines, middles, strict=True)
    ]


def draw_mask(network, side_m=800.0, pixel_m=1.0, seed=0, rough_m=0.0):
    """Return the mask of a network, uint8 (height, width); its edges wander by about `rough_m`."""
    side = round(side_m / pixel_m)
    areas = [line.buffer(width / 2) for line, width in network]
    finer = 4 if rough_m == 0 else 1
    fine = rasterize(
        areas,
        out_shape=(side * finer, side * finer),
        transform=(pixel_m / finer, 0, 0, 0, pixel_m / finer, 0),
        dtype="uint8",
    )
    if rough_m == 0:
        return (fine.reshape(side, finer, side, finer).mean(axis=(1, 3)) >= 0.5).astype(np.uint8)
    inside, outside = (ndimage.distance_transform_edt(fine == v) * pixel_m for v in (1, 0))
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(fine.shape), 2)
    return (inside - outside + noise / noise.std() * rough_m > 0).astype(np.uint8)


def cut_gaps(mask, network, seed, longest_m, pixel_m=1.0):
    """Return the mask with a gap of 2 to `longest_m` metres across every other road."""
    rng = np.random.default_rng(seed)
    shapes = []
    for line, width in network:
        if line.length < 40 or rng.random() < 0.5:
            continue
        at, half = rng.uniform(15, line.length - 15), rng.uniform(1, longest_m / 2)
        part = substring(line, at - half, at + half)
        shapes.append(part.buffer(width, cap_style="flat"))
    hole = rasterize(shapes, out_shape=mask.shape, transform=(pixel_m, 0, 0, 0, pixel_m, 0))
    return np.where(hole == 1, 0, mask).astype(np.uint8)
