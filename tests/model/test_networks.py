"""FCN and DeepLab v3+: sizes, lattice, halo, and that a run of them is seamless."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
import torch

from tests.model.test_halo import measured_reach
from tilingseg import flow
from tilingseg.errors import ModelError
from tilingseg.job import RunOptions
from tilingseg.model.deeplab import DeepLab, DeepLabOptions
from tilingseg.model.fcn import FCN, FcnOptions
from tilingseg.model.halo import edge_reach, network_geometry
from tilingseg.model.load import build_network, save_model
from tilingseg.model.ripple import ripple
from tilingseg.model.spec import ModelSpec
from tilingseg.model.unet import UNet, UNetOptions
from tilingseg.output_folder import OutputOptions
from tilingseg.records import to_json
from tilingseg.tiling import TilingOptions

SMALL = {
    "fcn": FcnOptions(features=(2, 3, 4), n_scored=2),
    "fcn transpose": FcnOptions(features=(2, 3, 4), upsampling="transpose"),
    "deeplab": DeepLabOptions(features=(2, 3, 4, 5), dilations=(1, 2), n_context=4, n_skip=3),
}


def build(name, n_bands=1, n_outputs=1):
    options = SMALL[name]
    kind = FCN if isinstance(options, FcnOptions) else DeepLab
    torch.manual_seed(0)
    return kind(n_bands, n_outputs, options).eval()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("shape", [(64, 48), (37, 51), (5, 3)])
def test_the_output_has_the_size_of_the_input(name, shape):
    with torch.inference_mode():
        assert build(name, 3, 2)(torch.zeros(2, 3, *shape)).shape == (2, 2, *shape)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("along", ["rows", "cols"])
def test_the_predicted_reach_is_the_measured_one(name, along):
    module = build(name)
    geometry = network_geometry(module, 1)
    assert geometry.reason is None
    assert geometry.multiple_px == module.multiple_px
    top, bottom, left, right = edge_reach(module, 1)
    tile_px = 2 * geometry.halo_px + 2 * geometry.multiple_px
    measured = measured_reach(module, 1, geometry.multiple_px, tile_px, along=along)
    assert measured == ((top, bottom) if along == "rows" else (left, right))


def test_the_mean_of_the_image_allows_no_exact_tiles():
    module = DeepLab(1, 1, DeepLabOptions(image_pooling=True)).eval()
    geometry = network_geometry(module, 1)
    assert geometry.halo_px is None
    assert "AdaptiveAvgPool2d looks at the whole tile" in geometry.reason
    dark, bright = torch.zeros(1, 1, 64, 64), torch.zeros(1, 1, 64, 64)
    bright[..., 32:] = 1
    with torch.inference_mode():
        assert not torch.equal(module(dark)[..., :4], module(bright)[..., :4])


@pytest.mark.parametrize("name", ["fcn", "deeplab"])
def test_a_run_does_not_show_how_it_was_cut(name, tmp_path):
    options = dict(vars_of(SMALL[name]))
    spec = ModelSpec(
        name="n",
        network=name,
        network_options=tuple(sorted(options.items())),
        bands=("red", "green", "blue"),
        classes=("thing",),
        thresholds=(0.12,),
        gsd_m=None,
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
    )
    torch.manual_seed(1)
    save_model(tmp_path / "n.safetensors", build_network(spec), spec)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 400, 300), dtype=np.uint8)
    profile = {"count": 3, "height": 400, "width": 300, "dtype": "uint8", "crs": "EPSG:32633"}
    profile["transform"] = rasterio.Affine(1, 0, 5e5, 0, -1, 5e6)
    with rasterio.open(tmp_path / "s.tif", "w", **profile) as dataset:
        dataset.write(pixels)
    found = []
    for tile_px in (None, 272):
        tiling = TilingOptions(tile_size_px=tile_px, blend="exact")
        outputs = OutputOptions(formats=("cog",), probability=True)
        options = RunOptions(model=tmp_path / "n.safetensors", tiling=tiling, outputs=outputs)
        flow.run(tmp_path / "s.tif", tmp_path / str(tile_px), options=options)
        with rasterio.open(tmp_path / str(tile_px) / "s_probability.tif") as dataset:
            found.append(dataset.read(1).astype(int))
    assert found[0].std() > 3
    # Convolutions add up in another order on other sizes: that may round to the next of 256 levels.
    assert np.abs(found[0] - found[1]).max() <= 1
    assert (found[0] != found[1]).mean() < 1e-3


def vars_of(options):
    return ((key, tuple(v) if isinstance(v, list) else v) for key, v in to_json(options).items())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FcnOptions(features=()), "features must be 1 or more"),
        (lambda: FcnOptions(n_scored=6), "n_scored must be 1 to 5"),
        (lambda: FcnOptions(upsampling="nearest"), "upsampling 'nearest' is not one of"),
        (lambda: DeepLabOptions(features=(1, 2)), "features must be 4 or more"),
        (lambda: DeepLabOptions(features=(1, 2, 3, 4, 5)), "features must be 4 numbers"),
        (lambda: DeepLabOptions(dilations=(0, 2)), "features must be 3 or more"),
    ],
)
def test_impossible_variants_are_refused(make, message):
    with pytest.raises(ModelError, match=message):
        make()


def test_resizing_leaves_no_lattice_and_learned_upsampling_does():
    pixels = torch.randn(1, 1, 64, 64)

    def measured(**options):
        torch.manual_seed(2)
        return ripple(UNet(1, 1, UNetOptions(features=(4, 8), **options)).eval(), pixels)

    assert measured(upsampling="nearest") < 1e-6
    assert measured(upsampling="bilinear") < 1e-6
    assert measured(upsampling="transpose") > 0.01
    assert measured(upsampling="bilinear", fold_px=2) > 0.01


def test_the_first_shortcut_of_deeplab_learns_from_colour():
    """PyTorch's gradient of a strided convolution of single pixels ruins memory with 3 bands."""
    torch.manual_seed(0)
    network = DeepLab(3, 1).to(memory_format=torch.channels_last)
    assert all(
        layer.stride == (1, 1)
        for layer in network.modules()
        if isinstance(layer, torch.nn.Conv2d) and layer.kernel_size == (1, 1)
    )
    pixels = torch.randn(4, 3, 64, 64)
    kernel = next(p for p in network.stages[0].short.parameters() if p.ndim == 4)
    gradients = []
    for kind in (torch.float32, torch.float64):
        network = network.to(kind)
        network.zero_grad()
        x = pixels.to(kind).contiguous(memory_format=torch.channels_last)
        network(x).square().mean().backward()
        gradients.append(kernel.grad.double().clone())
    assert (gradients[0] - gradients[1]).norm() <= 1e-3 * gradients[1].norm()
