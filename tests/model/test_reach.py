"""Networks whose layers cannot be read: measuring finds what walking through them would."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import torch
import torch.nn.functional as F
from torch import nn

from tests.makers import make_geotiff, smooth_noise
from tests.model.test_halo import OTHER_NETWORKS, Branching
from tilingseg import memo
from tilingseg.flow import run
from tilingseg.job import RunOptions
from tilingseg.model.halo import network_geometry
from tilingseg.model.load import load_model
from tilingseg.model.reach import MOST_PX, geometry_of, measured_geometry
from tilingseg.model.spec import METADATA_KEY, Geometry
from tilingseg.model.unet import UNet, UNetOptions
from tilingseg.output_folder import OutputOptions
from tilingseg.tiling import TilingOptions

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
UNREAD = Geometry(multiple_px=32, halo_px=None, reason="unread", bytes_per_px=512.0)


def traced(module, n_bands=1):
    return torch.jit.trace(module, torch.zeros(1, n_bands, 96, 96))


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"features": (2, 2, 2, 2), "upsampling": "transpose"},
        {"features": (2, 2), "upsampling": "bilinear"},
        {"features": (2, 2), "upsampling": "nearest", "convolution": "valid"},
        {"features": (2, 2), "fold_px": 4},
    ],
)
def test_a_traced_unet_has_the_geometry_of_its_layers(options, frozen):
    torch.manual_seed(1)
    module = UNet(2, 2, UNetOptions(**options)).eval()
    script = traced(module, 2)
    found = measured_geometry(torch.jit.freeze(script) if frozen else script, 2, UNREAD)
    walked = network_geometry(module, 2)
    assert found.reason is None
    assert found.measured
    # convolutions of some processors mix pixels: a step more is a halo too
    assert found.halo_px - walked.halo_px in (0, walked.multiple_px)
    assert found.multiple_px == walked.multiple_px
    assert 0.9 < found.bytes_per_px / walked.bytes_per_px < 2


@pytest.mark.parametrize("name", OTHER_NETWORKS)
def test_other_networks_have_the_geometry_of_their_layers(name):
    torch.manual_seed(0)
    module = OTHER_NETWORKS[name]().eval()
    found, walked = measured_geometry(module, 1, UNREAD), network_geometry(module, 1)
    assert (found.multiple_px, found.halo_px) == (walked.multiple_px, walked.halo_px)


class Resizing(nn.Module):
    """Half the size and back, by a size that is asked of the input: no walk can follow that."""

    def __init__(self, **how):
        super().__init__()
        self.how = how
        self.first, self.last = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x):
        half = F.max_pool2d(torch.relu(self.first(x)), 2)
        return self.last(F.interpolate(half, size=(x.shape[2], x.shape[3]), **self.how))


class Pooling(nn.Module):
    """Adds the mean of the whole tile to each pixel."""

    def forward(self, x):
        return x + x.mean((2, 3), keepdim=True)


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


def _far(px):
    """Looks at a pixel and at those so far to the left and right, and at none between."""
    return nn.Conv2d(1, 1, (1, 3), dilation=(1, px), padding=(0, px))


def test_a_network_that_resizes_to_the_size_of_its_input_is_measured():
    torch.manual_seed(0)
    module = Resizing(mode="bilinear").eval()
    assert network_geometry(module, 1).halo_px is None
    found = measured_geometry(module, 1, UNREAD)
    assert (found.multiple_px, found.halo_px) == (2, 4)


def test_a_network_that_looks_past_what_is_near_is_measured():
    assert measured_geometry(_far(500), 1, UNREAD).halo_px == 500


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Pooling(), f"sees further than {MOST_PX} px"),
        (_far(MOST_PX + 64), f"sees further than {MOST_PX} px"),
        (Resizing(mode="bilinear", align_corners=True), "moves with its input by no step"),
        (Branching(), "sees further"),
        (Noisy(), "something else each time"),
        (nn.Conv2d(1, 1, 3), "not have the size of its input"),
        (nn.Flatten(), "not have the size of its input"),
        (nn.Conv2d(3, 1, 1), "expected input"),
    ],
)
def test_networks_without_a_halo_say_why(module, words):
    torch.manual_seed(0)
    found = measured_geometry(module.eval(), 1, UNREAD)
    assert found.halo_px is None
    assert found.reason.startswith("unread; measured: ")
    assert words in found.reason


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.n_calls = 0

    def forward(self, x):
        self.n_calls += 1
        return x if x.shape[0] == 1 else x[:1]  # what a walk cannot follow


@pytest.mark.usefixtures("home")
def test_a_measurement_is_remembered_for_its_model():
    module = Counting()
    first = geometry_of(module, 1, "a" * 64)
    n_calls = module.n_calls
    assert (first.halo_px, first.multiple_px, first.measured) == (0, 1, True)
    assert geometry_of(module, 1, "a" * 64) == first
    assert module.n_calls == n_calls + 1  # the walk's attempt alone
    assert geometry_of(module, 1, "b" * 64) == first
    assert module.n_calls > n_calls + 2


@pytest.mark.usefixtures("home")
def test_a_refusal_is_remembered_as_well():
    first = geometry_of(Pooling(), 1, "a" * 64)
    assert f"sees further than {MOST_PX} px" in first.reason
    assert geometry_of(Pooling(), 1, "a" * 64) == first


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("entry", ["x", {}, {"halo_px": "far"}, None, [1]])
def test_a_foreign_entry_is_measured_anew(entry, monkeypatch):
    monkeypatch.setattr("tilingseg.model.reach.recall", lambda *_: entry)
    assert geometry_of(Counting(), 1, "a" * 64).halo_px == 0


@pytest.mark.usefixtures("home")
def test_layers_that_can_be_read_are_not_measured():
    geometry_of(UNet(1, 1, UNetOptions(features=(2,))).eval(), 1, "a" * 64)
    assert memo._entries("reach") == {}


@pytest.mark.usefixtures("home")
def test_the_model_in_the_box_gives_the_same_as_torchscript(tmp_path):
    model = load_model()
    path = tmp_path / "script.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        script = torch.jit.trace(model.module, torch.zeros(1, 3, 256, 256))
        torch.jit.save(script, path, _extra_files={METADATA_KEY: model.spec.to_json()})
    loaded = load_model(path, allow_torchscript=True)
    assert loaded.geometry.measured
    assert loaded.geometry.multiple_px == model.geometry.multiple_px
    halos = loaded.geometry.halo_px, model.geometry.halo_px
    assert halos[0] - halos[1] in (0, model.geometry.multiple_px)
    scene = make_geotiff(tmp_path / "scene.tif", smooth_noise(520, 610), gsd_m=0.3)
    options = RunOptions(
        device="cpu",
        engine="torch",
        gsd_m=0.3,
        outputs=OutputOptions(formats=("cog",), probability=True),
        tiling=TilingOptions(tile_size_px=512, overlap_px=2 * halos[0]),
    )
    found = []
    for name, wishes in (
        ("own", options),
        ("script", replace(options, model=path, torchscript=True)),
    ):
        run(scene, tmp_path / name, options=wishes)
        plan = json.loads((tmp_path / name / "run.json").read_text())["plan"]
        assert plan["tiling"]["stitching"] == "exact"
        assert ("measured" in plan["tiling"]["reason"]) == (name == "script")
        for kind in ("mask", "probability"):
            with rasterio.open(tmp_path / name / f"scene_{kind}.tif") as dataset:
                found.append(dataset.read().astype(int))
    assert np.array_equal(found[0], found[2])
    assert np.abs(found[1] - found[3]).max() <= 1
