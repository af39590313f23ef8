"""The core of a tile, run without the halo's share of the work."""

from __future__ import annotations

import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tilingseg.model.core import core_logits, core_share
from tilingseg.model.unet import UNet, UNetOptions

OPTIONS = st.builds(
    UNetOptions,
    features=st.lists(st.integers(2, 5), min_size=1, max_size=3).map(tuple),
    upsampling=st.sampled_from(["transpose", "nearest", "bilinear"]),
    convolution=st.sampled_from(["padded", "padded", "valid"]),
    fold_px=st.sampled_from([1, 2, 3, 4]),
)


@st.composite
def cuts(draw, size):
    start = draw(st.integers(0, size - 1))
    return slice(start, draw(st.integers(start + 1, size)))


@settings(max_examples=150)
@given(st.data())
def test_equals_the_same_part_of_the_whole_tile(data):
    options = data.draw(OPTIONS)
    torch.manual_seed(0)
    module = UNet(2, 3, options).double().eval()
    shape = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 70))
    core = data.draw(cuts(shape[0])), data.draw(cuts(shape[1]))
    pixels = torch.randn(2, 2, *shape, dtype=torch.float64)
    with torch.inference_mode():
        expected = module(pixels)[:, :, core[0], core[1]]
        found = core_logits(module, pixels, core)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


def test_float32_differs_by_rounding_alone():
    torch.manual_seed(0)
    module = UNet(3, 2, UNetOptions(features=(8, 16, 32))).eval()
    pixels = torch.randn(1, 3, 192, 160).contiguous(memory_format=torch.channels_last)
    core = slice(48, 144), slice(0, 112)
    with torch.inference_mode():
        expected = module(pixels)[:, :, *core]
        assert (core_logits(module, pixels, core) - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("fold_px", [1, 2])
def test_the_decoder_computes_no_more_than_the_core_needs(fold_px):
    options = UNetOptions(features=(4, 8), fold_px=fold_px)
    module = UNet(1, 1, options).eval()
    seen = {}
    for number, block in enumerate(module.decoder):
        block.register_forward_hook(lambda _m, _i, out, k=number: seen.update({k: out.shape[2:]}))
    with torch.inference_mode():
        core_logits(module, torch.randn(1, 1, 128, 128), (slice(32, 96), slice(0, 64)))
    # two pixels on each side; at the true edge there is no more
    assert seen[1] == (64 // fold_px + 4, 64 // fold_px + 2)
    assert seen[0] == (32 // fold_px + 6, 32 // fold_px + 3)


def maps_alive():
    """Where the numbers of all tensors of this process lie that are no weights."""
    tensors = [thing for thing in gc.get_objects() if type(thing) is torch.Tensor]
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


@pytest.mark.parametrize("fold_px", [1, 4])
@torch.inference_mode()
def test_no_map_lives_longer_than_it_is_needed(fold_px):
    module = UNet(3, 1, UNetOptions(features=(4, 8, 8), fold_px=fold_px)).eval()
    alive = {}

    def note(block, maps):
        alive[block] = len(maps_alive() - before)

    for block in (*module.encoder, module.bottom, *module.decoder):
        block.register_forward_pre_hook(note)
    before = maps_alive()
    side = 64 * fold_px
    core_logits(module, torch.randn(1, 3, side, side), (slice(16, side - 16),) * 2)
    # what is convolved and the skips above; on the way up also what was raised
    assert [alive[block] for block in module.encoder] == [1, 2, 3]
    assert alive[module.bottom] == 4
    assert [alive[block] for block in module.decoder] == [4, 3, 2]


def test_other_networks_are_run_whole():
    module = nn.Conv2d(1, 1, 3, padding=1)
    pixels = torch.randn(1, 1, 20, 20)
    core = slice(3, 9), slice(5, 20)
    assert torch.equal(core_logits(module, pixels, core), module(pixels)[:, :, *core])
    assert core_share(module) == 0.0


def test_the_share_is_that_of_the_multiplications():
    module = UNet(1, 1, UNetOptions(features=(4,))).eval()
    # a position of full resolution: encoder 9·(1·4 + 4·4), bottom a quarter of 9·(4·8 + 8·8),
    # raising 8·4, decoder 9·(8·4 + 4·4), head 4
    whole = 9 * 20 + 9 * 96 / 4
    cut = 32 + 9 * 48 + 4
    assert core_share(module) == pytest.approx(cut / (cut + whole))
