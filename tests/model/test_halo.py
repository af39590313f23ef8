"""The halo that the walk predicts is the one that perturbing a tile's surroundings shows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tilingseg.grid import TileGrid
from tilingseg.model.halo import UNTRACED_MULTIPLE_PX, edge_reach, network_geometry
from tilingseg.model.unet import UNet, UNetOptions

# tiling by hand, for two 3×3 convolutions a level: (top, bottom) at depths 1 to 4
BY_HAND = {"transpose": (8, 22, 46, 94), "nearest": (8, 22, 46, 94), "bilinear": (9, 25, 53, 109)}


def measured_reach(module, n_bands, multiple, tile_px, *, along):
    """Poison all of a scene but one tile with NaN, and say how deep that reaches into the tile.

    A NaN survives every layer, however small its weight, so the result is sharp. float64 keeps the
    convolutions from taking short cuts that mix pixels.
    """
    before, narrow = 3 * multiple, 2 * multiple
    inside = slice(before, before + tile_px)
    scene = torch.full((1, n_bands, inside.stop + 5 * multiple, narrow), torch.nan).double()
    scene[:, :, inside] = torch.rand((1, n_bands, tile_px, narrow)).double()
    if along == "cols":
        scene = scene.transpose(2, 3)
    with torch.inference_mode():
        poisoned = module.double()(scene).isnan().any(dim=1)[0]
    touched = torch.nonzero(poisoned.any(dim=1 if along == "rows" else 0)[inside]).flatten()
    first, second = touched[touched < tile_px // 2], touched[touched >= tile_px // 2]
    start = int(first.max()) + 1 if len(first) else 0
    return start, tile_px - int(second.min()) if len(second) else 0


@pytest.mark.parametrize("convolution", ["padded", "valid"])
@pytest.mark.parametrize("upsampling", ["transpose", "nearest", "bilinear"])
@pytest.mark.parametrize(
    ("depth", "fold_px"), [(1, 1), (2, 1), (3, 1), (4, 1), (1, 2), (3, 2), (1, 4), (2, 4)]
)
def test_predicted_reach_of_a_unet_is_the_measured_one(depth, upsampling, convolution, fold_px):
    options = UNetOptions(
        features=(2,) * depth,
        upsampling=upsampling,
        convolution=convolution,
        fold_px=fold_px,
    )
    module = UNet(1, 1, options).eval()
    geometry = network_geometry(module, 1)
    top, bottom, left, right = edge_reach(module, 1)
    assert geometry.multiple_px == module.multiple_px == fold_px * 2**depth
    assert geometry.reason is None
    tile_px = 2 * geometry.halo_px + 2 * geometry.multiple_px
    measured = measured_reach(module, 1, geometry.multiple_px, tile_px, along="rows")
    assert measured == (top, bottom) == (left, right)
    assert geometry.halo_px % geometry.multiple_px == 0
    assert geometry.halo_px - geometry.multiple_px < max(measured) <= geometry.halo_px
    if convolution == "padded":
        assert measured == (fold_px * BY_HAND[upsampling][depth - 1],) * 2


def test_paper_size_needs_96_px_and_bilinear_112():
    assert network_geometry(UNet(3, 1).eval(), 3).halo_px == 96
    bilinear = UNet(3, 1, UNetOptions(upsampling="bilinear")).eval()
    assert network_geometry(bilinear, 3).halo_px == 112


def _conv(n_in, n_out, **kw):
    return nn.Conv2d(n_in, n_out, **{"kernel_size": 3, "padding": 1, **kw})


OTHER_NETWORKS = {
    "strided": lambda: nn.Sequential(
        _conv(1, 2, stride=2), nn.ReLU(), _conv(2, 2), nn.ConvTranspose2d(2, 1, 2, stride=2)
    ),
    "transposed 3": lambda: nn.Sequential(
        nn.MaxPool2d(2), _conv(1, 2), nn.ConvTranspose2d(2, 1, 3, 2, 1, output_padding=1)
    ),
    "dilated": lambda: nn.Sequential(_conv(1, 1, dilation=3, padding=3), nn.AvgPool2d(3, 1, 1)),
    "flat kernel": lambda: nn.Conv2d(1, 1, (5, 1), padding=(2, 0)),
    "stride 3": lambda: nn.Sequential(
        _conv(1, 2, stride=3), nn.Upsample(scale_factor=3), nn.Conv2d(2, 1, 1)
    ),
    "average pool": lambda: nn.Sequential(
        nn.AvgPool2d(2), nn.BatchNorm2d(1), _conv(1, 1), nn.Upsample(scale_factor=2)
    ),
}


@pytest.mark.parametrize("name", OTHER_NETWORKS)
@pytest.mark.parametrize("along", ["rows", "cols"])
def test_predicted_reach_of_other_networks_is_the_measured_one(name, along):
    module = OTHER_NETWORKS[name]().eval()
    geometry = network_geometry(module, 1)
    assert geometry.reason is None
    reach = edge_reach(module, 1)
    tile_px = 6 * geometry.multiple_px + 2 * geometry.halo_px
    measured = measured_reach(module, 1, geometry.multiple_px, tile_px, along=along)
    assert measured == (reach[:2] if along == "rows" else reach[2:])


@pytest.mark.parametrize("convolution", ["padded", "valid"])
@pytest.mark.parametrize("upsampling", ["transpose", "bilinear"])
@pytest.mark.parametrize(("height", "width"), [(150, 203), (97, 128), (40, 300), (20, 9)])
def test_cores_of_tiles_equal_the_whole_scene(height, width, upsampling, convolution):
    torch.manual_seed(height)
    options = UNetOptions(features=(4, 4), upsampling=upsampling, convolution=convolution)
    module = UNet(3, 2, options).double().eval()
    geometry = network_geometry(module, 3)
    grid = TileGrid(
        height=height,
        width=width,
        tile_size_px=2 * geometry.halo_px + 8 * geometry.multiple_px,
        overlap_px=2 * geometry.halo_px,
        multiple_px=geometry.multiple_px,
    )
    scene = torch.randn(1, 3, height, width, dtype=torch.float64)
    stitched = torch.full((2, height, width), torch.nan, dtype=torch.float64)
    with torch.inference_mode():
        whole = module(scene)[0]
        for tile in grid:
            x = scene.new_zeros((1, 3, tile.window.height, tile.window.width))
            part = tile.window.intersection(grid.scene_window)
            inner, outer = part.slices_in(tile.window), part.slices_in(grid.scene_window)
            x[0, :, inner[0], inner[1]] = scene[0, :, outer[0], outer[1]]
            logits = module(x)[0]
            inner, outer = tile.core.slices_in(tile.window), tile.core.slices_in(grid.scene_window)
            stitched[:, outer[0], outer[1]] = logits[:, inner[0], inner[1]]
    assert len(grid) > 1 or height < 40
    assert torch.allclose(stitched, whole, rtol=0, atol=1e-12)


def test_tiles_off_the_lattice_differ():
    torch.manual_seed(0)
    module = UNet(1, 1, UNetOptions(features=(4, 4))).double().eval()
    scene = torch.rand((1, 1, 160, 8), dtype=torch.float64)
    halo = network_geometry(module, 1).halo_px
    with torch.inference_mode():
        whole = module(scene)[:, :, 2:158]
        shifted = module(scene[:, :, 2:158])
    inner = slice(halo, 156 - halo)
    assert not torch.allclose(shifted[:, :, inner], whole[:, :, inner])


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 1)

    def forward(self, x):
        return self.attention(x, x, x)[0]


NOT_EXACT = {
    "InstanceNorm2d looks at the whole tile": lambda: nn.InstanceNorm2d(1).eval(),
    "GroupNorm looks at the whole tile": lambda: nn.GroupNorm(1, 1).eval(),
    "align_corners=True": lambda: nn.Sequential(
        nn.MaxPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
    ).eval(),
    "AdaptiveAvgPool2d looks at the whole tile": lambda: nn.AdaptiveAvgPool2d(1).eval(),
    "MultiheadAttention looks at the whole tile": lambda: Attention().eval(),
    "BatchNorm2d is in training mode": lambda: nn.BatchNorm2d(1),
    "Dropout2d is in training mode": lambda: nn.Dropout2d(0.1),
    "keeps no statistics": lambda: nn.BatchNorm2d(1, track_running_stats=False).eval(),
    "Conv2d that does not pad": lambda: nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"),
    "not have the size of its input": lambda: nn.Conv2d(1, 1, 3).eval(),
    "reach is not known": lambda: nn.FractionalMaxPool2d(2, output_ratio=0.5).eval(),
    "cannot be read": lambda: Branching().eval(),
}


@pytest.mark.parametrize("reason", NOT_EXACT)
def test_networks_without_an_exact_halo_say_why(reason):
    geometry = network_geometry(NOT_EXACT[reason](), 1)
    assert geometry.halo_px is None
    assert reason in geometry.reason
    assert edge_reach(NOT_EXACT[reason](), 1) is None
    assert geometry.bytes_per_px > 0


def test_a_network_that_cannot_be_read_gets_the_deepest_usual_lattice():
    assert network_geometry(Branching(), 1).multiple_px == UNTRACED_MULTIPLE_PX


def test_the_lattice_is_known_where_the_halo_is_not():
    module = UNet(3, 1, UNetOptions(features=(4, 4, 4)))
    geometry = network_geometry(module.train(), 3)
    assert geometry.halo_px is None
    assert geometry.multiple_px == 8


def test_memory_is_that_of_the_maps_that_live_together():
    # 1 channel in and 3 out at full size, then 3 in and 8 out of which each has a quarter
    module = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 8, 2, stride=2), nn.PixelShuffle(2))
    assert network_geometry(module.eval(), 1).bytes_per_px == 4 * (3 + 8 / 4)
