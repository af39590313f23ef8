"""Several models that judge a scene together: what they must share, and the tiles that fit all."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tilingseg.errors import ModelError
from tilingseg.model.spec import Geometry

if TYPE_CHECKING:
    from tilingseg.model.load import LoadedModel

_SHARED = ("bands", "classes", "gsd_m", "value_range")


def check_alike(models: tuple[LoadedModel, ...]) -> None:
    """Refuse models that cannot judge the same pixels together.

    Raises:
        ModelError: with the field in which two differ, and both values.
    """
    first = models[0].spec
    for other in (model.spec for model in models[1:]):
        for name in _SHARED:
            one, two = getattr(first, name), getattr(other, name)
            if one != two:
                raise ModelError(
                    f"models {first.name!r} and {other.name!r} cannot be used together: their "
                    f"{name} differ, {one} and {two}"
                )


def common_geometry(models: tuple[LoadedModel, ...]) -> Geometry:
    """Return the lattice and the halo that suit every one of the models."""
    parts = [model.geometry for model in models]
    multiple = math.lcm(*(part.multiple_px for part in parts))
    halos = [part.halo_px for part in parts if part.halo_px is not None]
    is_exact = len(halos) == len(parts)
    return Geometry(
        multiple_px=multiple,
        halo_px=-(-max(halos) // multiple) * multiple if is_exact else None,
        reason=next((part.reason for part in parts if part.reason is not None), None),
        bytes_per_px=max(part.bytes_per_px for part in parts),
        core_share=sum(part.core_share for part in parts) / len(parts),
        measured=any(part.measured for part in parts),
    )
