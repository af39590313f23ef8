"""Physical pixel size of scenes without a CRS, from what microscopes write into their files.

The resolution tags of a TIFF are believed only where they say micrometres: everywhere else they are
dots per inch that some program filled in.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_METRES = {
    "km": 1e3,
    "kilometer": 1e3,
    "kilometre": 1e3,
    "m": 1.0,
    "meter": 1.0,
    "metre": 1.0,
    "cm": 1e-2,
    "centimeter": 1e-2,
    "mm": 1e-3,
    "millimeter": 1e-3,
    "µm": 1e-6,
    "μm": 1e-6,
    "um": 1e-6,
    "micron": 1e-6,
    "micrometer": 1e-6,
    "nm": 1e-9,
    "nanometer": 1e-9,
}
_LARGEST_OPTICAL_M = 2e-6
"""Coarser than this, resolution tags are those of printers and flatbed scanners."""


def metres(value: float, unit: str) -> float | None:
    """Convert a length; None: the unit is none of length, or the value is not above 0."""
    factor = _METRES.get(unit.strip().lower())
    return value * factor if factor is not None and value > 0 else None


def physical_pixel_m(tags: Mapping[str, str]) -> tuple[float, float] | None:
    """Find the size of a pixel along x and y, metres.

    Args:
        tags: TIFF tags by the names that GDAL gives them.

    Returns:
        None where the file does not tell.
    """
    description = tags.get("TIFFTAG_IMAGEDESCRIPTION", "")
    return _aperio(description) or _ome(description) or _resolution(tags)


def _aperio(description: str) -> tuple[float, float] | None:
    found = re.search(r"\bMPP\s*=\s*([0-9.]+)", description)
    size = metres(_number(found[1]), "µm") if found else None
    return None if size is None else (size, size)


def _ome(description: str) -> tuple[float, float] | None:
    found = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", description)
    if "OME" not in description or not found:
        return None
    attributes = dict(re.findall(r"(\w+)\s*=\s*[\"']([^\"']*)[\"']", found[0]))
    along_x, along_y = (
        metres(
            _number(attributes.get(f"PhysicalSize{axis}", "")),
            attributes.get(f"PhysicalSize{axis}Unit", "µm"),
        )
        for axis in "XY"
    )
    return None if along_x is None or along_y is None else (along_x, along_y)


def _resolution(tags: Mapping[str, str]) -> tuple[float, float] | None:
    unit = {"2": 0.0254, "3": 0.01}.get(tags.get("TIFFTAG_RESOLUTIONUNIT", "")[:1])
    x, y = (_number(tags.get(f"TIFFTAG_{axis}RESOLUTION", "")) for axis in "XY")
    if unit is None or x <= 0 or y <= 0:
        return None
    along_x, along_y = unit / x, unit / y
    return (along_x, along_y) if max(along_x, along_y) <= _LARGEST_OPTICAL_M else None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
