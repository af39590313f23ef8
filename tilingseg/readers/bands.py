"""Which bands of a file a model gets, and in which order.

Explicit indexes win. Otherwise the names that the model wants are looked for in the descriptions
and colours of the file, since a file stored blue, green, red must be read as red, green, blue. A
file that does not name its bands is taken in its order. A file that names them, but not the wanted
ones, is refused: a wrong band gives a wrong mask without an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilingseg.errors import SceneError
from tilingseg.records import Band

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tilingseg.readers.source import ReadOptions

_ANONYMOUS = re.compile(r"(band|channel)?[ _]?\d+", re.IGNORECASE)

_SYNONYMS = {
    "r": "red",
    "g": "green",
    "b": "blue",
    "grey": "gray",
    "pan": "gray",
    "panchromatic": "gray",
    "nearinfrared": "nir",
    "infrared": "nir",
    "nir1": "nir",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileBand:
    """One band as the file describes it."""

    index: int
    """Position in the file, from 1."""
    description: str = ""
    """Free text; empty: none."""
    colour: str = ""
    """Colour that the format records, such as red; empty: none."""
    is_alpha: bool = False
    """It says where data is and holds none itself."""

    @property
    def name(self) -> str:
        """Description or colour, lower case, or `band 3`."""
        return (self.description or self.colour).strip().lower() or f"band {self.index}"

    @property
    def is_named(self) -> bool:
        """The file says what the band shows."""
        return bool(_words(self.description) - {"band", str(self.index)}) or (
            self.colour not in ("", "gray")
        )


def choose_bands(
    available: Sequence[FileBand], options: ReadOptions, uri: str
) -> tuple[tuple[Band, ...], tuple[str, ...]]:
    """Choose what is read.

    Args:
        available: all bands of the file, in its order.
        options: `bands` and `band_names` are looked at.
        uri: the scene, for messages.

    Returns:
        bands: in the order in which they are read.
        notes: what the user should know about the choice.

    Raises:
        SceneError: the file does not have what is wanted.
    """
    if options.bands is not None:
        return _by_index(available, options.bands, uri), ()
    data = [band for band in available if not band.is_alpha]
    if not data:
        raise SceneError(f"{uri} holds an alpha band and nothing else; there is nothing to segment")
    if options.band_names is None:
        return tuple(Band(index=band.index, name=band.name) for band in data), ()
    return _by_name(available, options.band_names, uri)


def _by_index(available: Sequence[FileBand], wanted: Sequence[int], uri: str) -> tuple[Band, ...]:
    known = {band.index: band for band in available}
    for index in wanted:
        if index not in known:
            raise SceneError(f"{uri} has no band {index}; its bands are {_described(available)}")
    return tuple(Band(index=index, name=known[index].name) for index in wanted)


def _by_name(
    available: Sequence[FileBand], wanted: Sequence[str], uri: str
) -> tuple[tuple[Band, ...], tuple[str, ...]]:
    data = [band for band in available if not band.is_alpha]
    found = {name: band for name in wanted if (band := _match(data, name)) is not None}
    taken = {band.index for band in found.values()}
    unnamed = [band for band in data if band.index not in taken and not band.is_named]
    # A model that does not name its bands, or has one alone, takes what there is.
    free = not found and (len(wanted) == 1 or all(_ANONYMOUS.fullmatch(name) for name in wanted))
    spare = iter(data if free else unnamed)
    chosen: list[Band] = []
    guessed: list[str] = []
    for name in wanted:
        band = found.get(name) or next(spare, None)
        if band is None:
            raise SceneError(_mismatch(available, wanted, name, uri))
        if name not in found:
            guessed.append(f"band {band.index} as {name}")
        chosen.append(Band(index=band.index, name=name if name in found else band.name))
    notes = []
    if guessed:
        notes.append(f"Bands taken by their position, not by name: {', '.join(guessed)}.")
    order = [band.index for band in chosen]
    if not guessed and order != sorted(order):
        notes.append(
            f"Bands {', '.join(map(str, order))} are read as {', '.join(wanted)}, by their names."
        )
    return tuple(chosen), tuple(notes)


def _mismatch(available: Sequence[FileBand], wanted: Sequence[str], name: str, uri: str) -> str:
    data = [band for band in available if not band.is_alpha]
    count = f"{len(data)} band{'s' * (len(data) != 1)}"
    needs = f"the model needs {len(wanted)} ({', '.join(wanted)})"
    if len(data) < len(wanted) <= len(available):
        example = ",".join(str(i + 1) for i in range(len(wanted)))
        return (
            f"{uri} has {count} and alpha ({_described(available)}), but {needs}; "
            f"if the alpha band is one of them, say so: --bands {example}"
        )
    if len(data) < len(wanted):
        example = ",".join(str(min(i + 1, len(data))) for i in range(len(wanted)))
        return (
            f"{uri} has {count} ({_described(data)}), but {needs}; "
            f"repeat a band to fill the gap: --bands {example}"
        )
    example = ",".join(str(i + 1) for i in range(len(wanted)))
    return (
        f"{uri} has {count} ({_described(data)}) and none is {name!r}, but {needs}; "
        f"say which to read, such as --bands {example}"
    )


def _match(data: Sequence[FileBand], wanted: str) -> FileBand | None:
    """Return the band whose whole description, else a word of it, else colour is `wanted`."""
    name = _plain(wanted)
    for band in data:
        if band.description and _plain(band.description) == name:
            return band
    for band in data:
        if name in _words(band.description):
            return band
    for band in data:
        # A description that names something else outranks the colour: writers fill in red, green,
        # blue for whatever three bands come first.
        if _plain(band.colour) == name and not _words(band.description) & _COLOURS:
            return band
    return None


_COLOURS = {"red", "green", "blue", "nir", "rededge", "gray", "swir", "coastal"}


def _words(text: str) -> set[str]:
    joined = re.sub(r"(red|near)[\s_-]+(edge|infrared)", r"\1\2", text.lower())
    # Single letters name a band only when they are the whole description.
    return {_SYNONYMS.get(word, word) for word in re.findall(r"[a-z0-9]+", joined) if len(word) > 1}


def _plain(text: str) -> str:
    squeezed = re.sub(r"[^a-z0-9]+", "", text.lower())
    return _SYNONYMS.get(squeezed, squeezed)


def _described(bands: Sequence[FileBand]) -> str:
    shown = [f"{band.index} {band.name}" if band.is_named else str(band.index) for band in bands]
    return ", ".join(shown[:12]) + (", …" if len(shown) > 12 else "")
