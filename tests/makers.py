"""Small real files for tests: scenes as GeoTIFF, models as safetensors, jobs to train by."""

import numpy as np
import rasterio
import torch
from affine import Affine
from scipy.ndimage import gaussian_filter

from tilingseg.model.load import build_network, save_model
from tilingseg.model.spec import ModelSpec

SPEC = ModelSpec(
    name="tiny",
    network="unet",
    network_options=(("features", (4, 8)),),
    bands=("red", "green", "blue"),
    classes=("building", "road"),
    thresholds=(0.5, 0.5),
    gsd_m=0.5,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    tile_size_px=64,
)


def make_model(path, spec=SPEC, seed=0):
    """Write a network with random weights that gives blobs of every class."""
    torch.manual_seed(seed)
    module = build_network(spec)
    with torch.no_grad():
        for name, value in module.named_parameters():
            if name.endswith("bias") and value.shape == (spec.n_outputs,):
                # a pixel that no unit fires for must not lie on a threshold
                value.copy_(torch.linspace(0.03, -0.02, len(value)))
            elif value.ndim == 4 and value.shape[0] == spec.n_outputs:
                value.mul_(3)
        for name, value in module.named_buffers():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2.0)
            elif name.endswith("running_mean"):
                value.normal_(0.0, 0.3)
    save_model(path, module, spec)
    return path


def smooth_noise(height, width, n_bands=3, seed=0):
    """Random pictures with structure at several scales: uint8 (bands, height, width)."""
    rng = np.random.default_rng(seed)
    fine = rng.standard_normal((n_bands, height, width))
    noise = sum(gaussian_filter(fine, (0, s, s)) * s for s in (1, 4, 12))
    noise = (noise - noise.mean()) / noise.std()
    return np.clip(noise * 50 + 128, 0, 255).astype(np.uint8)


def make_geotiff(path, pixels, *, gsd_m=0.5, crs="EPSG:32633", **profile):
    """Write (bands, height, width) as a tiled GeoTIFF, north up at 500000, 5000000."""
    n_bands, height, width = pixels.shape
    settings = {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": n_bands,
        "dtype": pixels.dtype.name,
        "crs": crs,
        "transform": Affine(gsd_m, 0, 500_000, 0, -gsd_m, 5_000_000),
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "compress": "deflate",
        "photometric": "RGB" if n_bands == 3 and pixels.dtype == np.uint8 else None,
    }
    settings = {k: v for k, v in (settings | profile).items() if v is not None}
    with rasterio.open(path, "w", **settings) as dataset:
        dataset.write(pixels)
    return path


NOISE_RECIPE = """
name = "tiny"
classes = ["building"]
bands = ["red", "green", "blue"]
gsd_m = 1.0
mean = [0.5, 0.5, 0.5]
std = [0.2, 0.2, 0.2]
[network]
features = [2]
[schedule]
steps = 2
batch_size = 2
window_px = 16
validate_every = 2
warmup_steps = 2
[augment]
scale = [1.0, 1.0]
rotation_deg = 0.0
[[sources]]
name = "noise"
split = "train"
rasters = "rgb.tif"
mask = "mask.tif"
rows = [0.0, 0.5]
classes = [{ name = "building", values = [1] }]
licence = "CC0"
[[sources]]
name = "noise"
split = "validation"
rasters = "rgb.tif"
mask = "mask.tif"
rows = [0.7, 1.0]
classes = [{ name = "building", values = [1] }]
licence = "CC0"
"""


def make_noise_job(folder):
    """Write a raster, its mask and a recipe of two steps, whose path is returned."""
    rng = np.random.default_rng(0)
    for name, n_bands, n_values in (("rgb", 3, 255), ("mask", 1, 2)):
        values = rng.integers(0, n_values, (n_bands, 64, 64)).astype(np.uint8)
        make_geotiff(folder / f"{name}.tif", values, gsd_m=1.0)
    path = folder / "recipe.toml"
    path.write_text(NOISE_RECIPE, encoding="utf-8")
    return path


def misspell(recipe):
    """Put a key that nobody knows into a recipe file."""
    recipe.write_text(recipe.read_text("utf-8").replace("steps", "stps", 1), encoding="utf-8")
    return recipe
