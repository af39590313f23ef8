"""How far a network sees, measured: for networks whose layers cannot be read.

TorchScript files and foreign layers cannot be walked (see `halo`), but they can be asked. What lies
around the inside of a long strip is replaced by NaN, by infinity and by other noise; what changes
inside in a single bit was reached. NaN and infinity survive convolutions however small the weights
are, so this is the reach of the structure and not of what happens to show. The lattice is the
smallest step by which the output moves with its input. At the end tiles are compared with the noise
that they were cut from: a network that depends on the size of its tile is found there.

A network that reaches further than `MOST_PX`, by attention or by means over the tile, or that fails
another of these checks, has no halo and is blended; the reason says which. Measuring takes as long
as some twenty tiles of 512 px and is remembered by the hash of the model file.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tilingseg import __version__
from tilingseg.errors import ModelError
from tilingseg.memo import recall, remember
from tilingseg.model.halo import network_geometry
from tilingseg.model.spec import Geometry

if TYPE_CHECKING:
    from torch import nn

MOST_PX = 1024
"""Farthest reach that is looked for, px."""
TOLERANCE = 1e-5
"""What tiles may differ by from what they were cut from, as a share of the largest logit: rounding
in float32 takes a tenth of it."""
_LATTICES_PX = (64, 96)
"""Sizes whose divisors may be the lattice: six halvings, or five and a stride of three."""
_POISONS = (math.nan, math.inf, None)
"""What surrounds the inside of a strip; None: noise a thousand times as strong."""
_REPEATS = 2
_CORE_PX, _MARGIN_PX, _MEMORY_PX = 48, 64, 256


def geometry_of(module: nn.Module, n_bands: int, sha256: str) -> Geometry:
    """Find lattice, halo and memory of a network by its layers, or else by measuring it.

    Args:
        module: the network on the CPU, in evaluation mode.
        n_bands: channels of its input.
        sha256: hash of its file, under which a measurement is remembered.
    """
    walked = network_geometry(module, n_bands)
    if walked.halo_px is not None:
        return walked
    key = f"{sha256} {__version__} {torch.__version__}"
    match recall("reach", key):
        case {"multiple_px": int(lattice), "halo_px": int() | None as halo,
              "reason": str() | None as reason, "bytes_per_px": float(size)}:  # fmt: skip
            return Geometry(
                multiple_px=lattice, halo_px=halo, reason=reason, bytes_per_px=size, measured=True
            )
    found = measured_geometry(module, n_bands, walked)
    names = "multiple_px", "halo_px", "reason", "bytes_per_px"
    remember("reach", key, {name: getattr(found, name) for name in names})
    return found


def measured_geometry(module: nn.Module, n_bands: int, walked: Geometry) -> Geometry:
    """Measure lattice, halo and memory of a network.

    Args:
        module: the network on the CPU, in evaluation mode.
        n_bands: channels of its input.
        walked: what its layers have told: the lattice and the reason where nothing is found.
    """
    probe, found = _Probe(module, n_bands), replace(walked, measured=True)
    try:
        multiple, halo = probe.lattice_and_halo()
        found = replace(found, multiple_px=multiple, halo_px=halo, reason=None)
    except Exception as error:  # noqa: BLE001  foreign code may raise anything
        why = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        found = replace(found, reason=f"{walked.reason}; measured: {why}")
    with contextlib.suppress(Exception):  # where it cannot be watched, the guess stands
        found = replace(found, bytes_per_px=probe.bytes_per_px())
    return found


class _Probe:
    """Asks one network; the noise is the same each time."""

    def __init__(self, module: nn.Module, n_bands: int) -> None:
        self._module = module
        self._n_bands = n_bands
        self._random = torch.Generator().manual_seed(0)

    def bytes_per_px(self) -> float:
        """Return the most memory of maps that is alive at once, bytes for each input pixel."""
        pixels = self._noise(_MEMORY_PX, _MEMORY_PX)
        self._run(pixels)  # what is made once is no map
        with torch.inference_mode(), _LiveMaps() as maps:
            self._module(pixels)
        return float(maps.peak + pixels.nbytes) / _MEMORY_PX**2

    def lattice_and_halo(self) -> tuple[int, int]:
        """Return F and the halo rounded up to it, px.

        Raises:
            ModelError: there is none; the message says why.
        """
        base = self._base()
        self._ask_again(base)
        reach = max(self._reach(base, axis) for axis in (2, 3))
        multiple = next((step for step in _divisors(base) if self._moves_by(step, reach)), None)
        if multiple is None:
            raise ModelError(f"its output moves with its input by no step up to {base} px")
        halo = _rounded(reach, multiple)
        self._compare_tiles(multiple, halo)
        return multiple, halo

    def _base(self) -> int:
        """Return a size that the network accepts, in whose divisors its lattice is looked for."""
        *others, last = _LATTICES_PX
        for base in others:
            try:
                self._run(self._noise(2 * base, base))
            except Exception:  # noqa: BLE001  foreign code may raise anything
                continue
            return base
        self._run(self._noise(2 * last, last))
        return last

    def _ask_again(self, base: int) -> None:
        """Refuse a network that gives something else each time."""
        pixels = self._noise(2 * base, base)
        first = self._run(pixels)
        if any(not torch.equal(self._run(pixels), first) for _ in range(_REPEATS)):
            raise ModelError("it gives something else each time for the same pixels")

    def _reach(self, base: int, axis: int) -> int:
        """Return how deep the surroundings of a strip reach into it along one axis, px.

        The strip is as long as the farthest reach that counts: a dilated convolution looks past all
        that is near.
        """
        span = _rounded(MOST_PX, base)
        inside = slice(span, 3 * span)
        strip = self._noise(*((4 * span, base) if axis == 2 else (base, 4 * span)))
        clean = self._run(strip)
        touched = torch.zeros(2 * span, dtype=torch.bool)
        for poison in _POISONS:
            around = 1000 * self._noise(*strip.shape[2:])
            if poison is not None:
                around.fill_(poison)
            around.narrow(axis, span, 2 * span).copy_(strip.narrow(axis, span, 2 * span))
            touched |= (self._run(around) != clean).any(dim=(0, 1, 5 - axis))[inside]
            places = torch.nonzero(touched).flatten()
            depths = torch.minimum(places + 1, 2 * span - places)
            if len(depths) and depths.max() >= span:
                raise ModelError(f"it sees further than {MOST_PX} px")
        return int(depths.max()) if len(depths) else 0

    def _moves_by(self, step: int, reach: int) -> bool:
        """Tell whether a shift of the input by so many pixels shifts the output and no more."""
        halo, width = _rounded(reach, step), _rounded(_MARGIN_PX, step)
        length = 2 * halo + _rounded(2 * _MARGIN_PX, step) + step
        for axis in (2, 3):
            strip = self._noise(*((length, width + step) if axis == 2 else (width + step, length)))
            inner = length - step - 2 * halo
            try:
                whole, moved = self._run(strip), self._run(strip.narrow(axis, step, length - step))
            except Exception:  # noqa: BLE001  a size off the lattice; foreign code raises anything
                return False
            if _is_off(moved.narrow(axis, halo, inner), whole.narrow(axis, halo + step, inner)):
                return False
        return True

    def _compare_tiles(self, multiple: int, halo: int) -> None:
        """Compare tiles, off the edges and at them, with the noise that they were cut from."""
        margin = (_MARGIN_PX // multiple | 1) * multiple
        side = 2 * halo + _rounded(_CORE_PX, multiple) + 2 * multiple
        size = side + 2 * margin
        coarse = self._noise(-(-size // 16), -(-size // 16)).repeat_interleave(16, 2)
        scenes = self._noise(size, size), coarse.repeat_interleave(16, 3)[..., :size, :size]
        for scene in scenes:
            whole = self._run(scene)
            for row, col in ((margin, margin), (0, 2 * margin)):
                tile = self._run(scene[..., row : row + side, col : col + side])
                rows = slice(halo if row else 0, side - halo)
                cols = slice(halo, side if col + side == size else side - halo)
                there = whole[..., row : row + side, col : col + side]
                if _is_off(tile[..., rows, cols], there[..., rows, cols]):
                    raise ModelError("its output depends on the size or the place of the tile")

    def _noise(self, height: int, width: int) -> torch.Tensor:
        return torch.randn(1, self._n_bands, height, width, generator=self._random)

    def _run(self, pixels: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            logits = self._module(pixels.contiguous())
        if not isinstance(logits, torch.Tensor):
            raise ModelError("it returns something else than one tensor")
        if logits.shape[2:] != pixels.shape[2:]:
            raise ModelError("its output does not have the size of its input")
        return logits


class _LiveMaps(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch has no types here
    """Counts the memory of the tensors that are made inside and not yet freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if (place := storage._cdata) not in self._alive:
                    self._alive[place] = storage.nbytes()
                    weakref.finalize(storage, self._alive.pop, place)
        self.peak = max(self.peak, sum(self._alive.values()))
        return result


def _is_off(one: torch.Tensor, other: torch.Tensor) -> bool:
    difference = (one - other).abs().max().item()
    return not difference <= TOLERANCE * other.abs().max().item()  # so that NaN is off as well


def _divisors(number: int) -> list[int]:
    return [step for step in range(1, number + 1) if number % step == 0]


def _rounded(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple
