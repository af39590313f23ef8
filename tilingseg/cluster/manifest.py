"""Which scenes a batch has: paths, URLs, patterns, lists, tables and STAC files become one list.

=====================  ==========================================================================
`a.tif`, `s3://…`      itself; a folder that is a Zarr group too
`dir/*.tif`, `**`      the files that match, sorted
`scenes.txt`           one a line; blank lines and lines that begin with `#` are skipped
`scenes.csv`           the column `uri`, `path`, `scene`, `href` or `location`, whichever is first
`scenes.parquet`       the same
`items.json`           a STAC ItemCollection, Item, Catalog or Collection with its linked items
=====================  ==========================================================================

Paths in a file are relative to that file. Every scene has a name, its stem or the id of its STAC
item; which folder that becomes beside others of the same name is the ledger's to say. Opens no
scene.
"""

from __future__ import annotations

import csv
import glob
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilingseg.errors import DependencyError, SceneError
from tilingseg.places import absolute, safe_name
from tilingseg.request import scene_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

COLUMNS = ("uri", "path", "scene", "href", "location")
"""Names of the column that holds the scene, in any case."""
RASTER_TYPES = ("image/tiff", "image/jp2", "application/vnd+zarr", "application/vnd.zarr")
"""Media types of STAC assets that are scenes, up to their parameters."""
LISTS = (".txt", ".csv", ".parquet", ".json", ".geojson")
"""Suffixes of files that name scenes."""
ZARR_MARKS = ("zarr.json", ".zgroup", ".zarray")
MAX_CATALOGS = 100_000
"""Linked STAC files beyond which a catalogue is taken for endless."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneEntry:
    """One scene of a batch."""

    uri: str
    """Absolute path, or URL."""
    name: str
    """Its stem or id; in a batch the name of its output folder."""


def list_scenes(arguments: Iterable[str], asset: str | None = None) -> list[SceneEntry]:
    """List the scenes that the user named, each once, in their order.

    Args:
        arguments: paths, URLs, patterns and files that list scenes.
        asset: key of the STAC asset to take; None: the one that is a raster.

    Raises:
        SceneError: an argument is nothing of that kind, or names no scene.
        DependencyError: a Parquet file, and pyarrow is missing.
    """
    found: dict[str, SceneEntry] = {}
    for argument in arguments:
        n_entries = 0
        for entry in _entries(argument, asset):
            found.setdefault(scene_key(entry.uri), entry)
            n_entries += 1
        if not n_entries:
            raise SceneError(f"{argument} names no scene")
    return list(found.values())


def may_list(argument: str) -> bool:
    """Tell whether an argument may name other scenes; a raster may be called so too.

    Args:
        argument: path, URL or pattern.
    """
    if "://" in argument:
        return False
    path = Path(argument)
    if path.exists():
        return path.is_file() and path.suffix.lower() in LISTS
    return glob.has_magic(argument) and any(glob.iglob(argument, recursive=True))  # noqa: PTH207


def _entries(argument: str, asset: str | None) -> Iterator[SceneEntry]:
    path, suffix = Path(argument), Path(argument).suffix.lower()
    if "://" in argument:
        yield _entry(argument)
    elif glob.has_magic(argument) and not path.exists():
        matches = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207
        if not matches:
            raise SceneError(f"no file matches {argument}")
        yield from (_entry(match) for match in matches)
    elif suffix == ".txt":
        lines = (line.strip() for line in _text(path).splitlines())
        yield from (_entry(x, path.parent) for x in lines if x and not x.startswith("#"))
    elif suffix == ".csv":
        yield from (_entry(uri, path.parent) for uri in _csv(path))
    elif suffix == ".parquet":
        yield from (_entry(uri, path.parent) for uri in _parquet(path))
    elif suffix in (".json", ".geojson"):
        yield from _stac(path, asset)
    elif path.is_dir() and not any((path / mark).exists() for mark in ZARR_MARKS):
        raise SceneError(f"{argument} is a folder; name its scenes, as '{argument}/*.tif'")
    else:
        yield _entry(argument)


def _entry(uri: str, folder: Path | None = None, name: str | None = None) -> SceneEntry:
    stem = re.split(r"[/\\]", uri.partition("?")[0].rstrip("/"))[-1].rpartition(".")
    return SceneEntry(uri=absolute(uri, folder), name=_safe(name or stem[0] or stem[2]))


def _safe(name: str) -> str:
    """Leave out what cannot be in the name of a folder."""
    return safe_name(name, "+").lstrip(".") or "scene"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SceneError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SceneError(f"{path} is no text in UTF-8") from error


def _column(path: Path, names: list[str]) -> str:
    for wanted in COLUMNS:
        for name in names:
            if name.strip().lower() == wanted:
                return name
    raise SceneError(
        f"{path} has no column {', '.join(COLUMNS)}; it has {', '.join(map(str, names)) or 'none'}"
    )


def _csv(path: Path) -> list[str]:
    rows = csv.DictReader(io.StringIO(_text(path), newline=""))
    try:
        column = _column(path, list(rows.fieldnames or ()))
        cells = [row[column] for row in rows]
    except csv.Error as error:
        raise SceneError(f"{path} is no readable CSV file: {error}") from error
    return [cell.strip() for cell in cells if cell and cell.strip()]


def _parquet(path: Path) -> list[str]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DependencyError(
            f"{path}: reading Parquet needs pyarrow: pip install tilingseg[parquet]"
        ) from error
    try:
        column = _column(path, parquet.read_schema(path).names)
        values = parquet.read_table(path, columns=[column])[column].to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise SceneError(f"{path} is no readable Parquet file: {error}") from error
    return [str(value).strip() for value in values if value and str(value).strip()]


def _stac(path: Path, asset: str | None) -> Iterator[SceneEntry]:
    """Yield the scenes of a STAC file and of the files it links to."""
    waiting, seen = [path], {path.resolve()}
    while waiting:
        path = waiting.pop(0)
        for item in _items(path, waiting, seen):
            if item.get("type") != "Feature" or not isinstance(item.get("assets"), dict):
                raise SceneError(f"{path}: {item.get('id', 'an entry')} is no STAC item")
            href = _asset(path, item, asset)
            yield _entry(href, path.parent, str(item.get("id") or "") or None)


def _items(path: Path, waiting: list[Path], seen: set[Path]) -> list[dict[str, Any]]:
    """Return the items in a STAC file; what it links to is put into the queue."""
    try:
        raw = json.loads(_text(path))
    except ValueError as error:
        raise SceneError(f"{path} is not JSON: {error}") from error
    kind = raw.get("type") if isinstance(raw, dict) else None
    if kind == "FeatureCollection":
        return _objects(path, raw, "features")
    if kind == "Feature":
        return [raw]
    if kind not in ("Catalog", "Collection"):
        raise SceneError(f"{path} is neither a STAC ItemCollection, Item, Catalog nor Collection")
    for link in _objects(path, raw, "links"):
        if link.get("rel") in ("item", "child"):
            href = str(link.get("href", ""))
            if "://" in href:
                raise SceneError(f"{path} links to {href}: save the items to a file first")
            target = (path.parent / href).resolve()
            if target not in seen and len(seen) < MAX_CATALOGS:
                seen.add(target)
                waiting.append(target)
    return []


def _objects(path: Path, raw: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = raw.get(key)
    if not isinstance(found, list) or not all(isinstance(part, dict) for part in found):
        raise SceneError(f"{path}: {key!r} is no list of objects, so this is no STAC file")
    return found


def _asset(path: Path, item: dict[str, Any], wanted: str | None) -> str:
    assets = {name: asset for name, asset in item["assets"].items() if isinstance(asset, dict)}
    if wanted is not None:
        names = [wanted] if wanted in assets else []
    else:
        rasters = [
            name
            for name, asset in assets.items()
            if str(asset.get("type", "")).partition(";")[0].strip() in RASTER_TYPES
            and not any(role in ("thumbnail", "overview") for role in asset.get("roles") or ())
        ]
        names = [name for name in rasters if name == "visual"] or rasters
        names = names or (list(assets) if len(assets) == 1 else [])
    if len(names) != 1:
        raise SceneError(
            f"{path}: item {item.get('id')!r} has the assets {', '.join(assets) or 'none'}; choose "
            "one with --asset"
        )
    href = assets[names[0]].get("href")
    if not isinstance(href, str) or not href.strip():
        raise SceneError(f"{path}: asset {names[0]!r} of item {item.get('id')!r} has no href")
    return href.strip()
