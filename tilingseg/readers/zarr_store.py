"""Finding and opening Zarr stores: which part of a path is the store, and what went wrong.

Remote stores go through zarr's own fsspec support, so that any protocol that fsspec knows works
once its package is installed. Access is told by the same variables as for GDAL, so that a bucket
that a GeoTIFF is read from gives its Zarr too.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zarr
from zarr.errors import BaseZarrError
from zarr.storage import ZipStore

from tilingseg.errors import DependencyError, SceneError
from tilingseg.places import refusals, why

_METADATA = ("zarr.json", ".zarray", ".zgroup", ".zmetadata")
_PACKAGES = {
    "http": "fsspec aiohttp",
    "https": "fsspec aiohttp",
    "s3": "s3fs",
    "gs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ZarrTarget:
    """A store, and the place inside it that was asked for."""

    uri: str
    """As the user wrote it."""
    root: str
    """Path or URL of the store."""
    inner: str
    """Path of the array or group inside; empty: the root itself."""

    @property
    def is_remote(self) -> bool:
        """It is read over a network."""
        return "://" in self.root


def locate_zarr(uri: str) -> ZarrTarget | None:
    """Tell store and inner path apart; None: the uri names no Zarr store.

    Args:
        uri: path or URL; a store is a component that ends in `.zarr`, or a folder with Zarr
            metadata.
    """
    plain = uri.removeprefix("file://")
    found = re.match(r"(.*?\.zarr(?:\.zip)?)(?:[/\\]+(.*?))?[/\\]*$", plain, re.IGNORECASE)
    # `ZARR:"…"` and `/vsi…` are GDAL's names for its own driver.
    # Nor is a picture that lies in the folder of a store part of it.
    is_file = "://" not in plain and Path(plain).is_file() and not plain.lower().endswith(".zip")
    if found and not is_file and not re.match(r"/vsi|\w{2,}:(?!//)", plain):
        inner = (found[2] or "").replace("\\", "/")
        return ZarrTarget(uri=uri, root=found[1], inner=inner)
    if "://" not in plain and any((Path(plain) / name).is_file() for name in _METADATA):
        return ZarrTarget(uri=uri, root=plain, inner="")
    return None


class ZarrStore:
    """An open store that remembers the arrays and groups it has opened."""

    def __init__(self, target: ZarrTarget) -> None:
        """Prepare opening; nothing is read."""
        self.target = target
        self._nodes: dict[str, zarr.Array[Any] | zarr.Group] = {}

    def node(self, path: str) -> zarr.Array[Any] | zarr.Group:
        """Open an array or group for reading.

        Args:
            path: inside the store, from its root.

        Raises:
            SceneError: there is none, or the store cannot be reached.
            DependencyError: a package is needed to reach it.
        """
        if path not in self._nodes:
            self._nodes[path] = _open(self.target, path)
        return self._nodes[path]

    def array(self, path: str) -> zarr.Array[Any]:
        """Open an array for reading.

        Raises:
            SceneError: there is none, or the store cannot be reached.
        """
        node = self.node(path)
        if not isinstance(node, zarr.Array):
            raise SceneError(f"{self.target.root}: {path!r} is no array")
        return node

    def groups_around(self, path: str) -> list[zarr.Group]:
        """Return the groups around an array, innermost first, as far as they can be opened."""
        groups = []
        while path:
            path = path.rpartition("/")[0]
            try:
                node = self.node(path)
            except SceneError:
                # An array may lie in folders that are no groups.
                continue
            if isinstance(node, zarr.Group):
                groups.append(node)
        return groups


def _open(target: ZarrTarget, path: str) -> zarr.Array[Any] | zarr.Group:
    try:
        return zarr.open(**_store(target.root), path=path, mode="r")
    except ImportError as error:
        scheme = target.root.partition("://")[0].lower()
        raise DependencyError(
            f"{target.uri}: reading Zarr over {scheme} needs another package; "
            f"pip install {_PACKAGES.get(scheme, 'fsspec')}"
        ) from error
    except FileNotFoundError as error:
        raise SceneError(_not_found(target, path)) from error
    except refusals(BaseZarrError, ValueError, TypeError, KeyError) as error:
        raise SceneError(
            f"{target.uri} cannot be opened as Zarr: {why(error)}{_access_hint(error)}"
        ) from error


def _inside(target: ZarrTarget) -> list[str]:
    """Return the names at the root of a store, as far as it can be listed."""
    try:
        root = zarr.open_group(**_store(target.root), mode="r")
        return sorted(root.keys())
    except refusals(BaseZarrError, ValueError, NotImplementedError):
        # The names only help in a message that something else was not found. Stores that cannot be
        # listed, as over plain HTTP, say NotImplementedError.
        return []


def _store(root: str) -> dict[str, Any]:
    """Return the arguments that tell Zarr where a store is and how to reach it."""
    if root.lower().endswith(".zip"):
        return {"store": ZipStore(root, mode="r")}
    unsigned = os.environ.get("AWS_NO_SIGN_REQUEST", "").lower() in ("yes", "true", "on", "1")
    if unsigned and root.lower().startswith("s3://"):
        return {"store": root, "storage_options": {"anon": True}}
    return {"store": root}


def _access_hint(error: Exception) -> str:
    if type(error).__name__ != "NoCredentialsError":
        return ""
    return "; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_NO_SIGN_REQUEST=YES"


def _not_found(target: ZarrTarget, path: str) -> str:
    if not target.is_remote and not Path(target.root).exists():
        return f"{target.uri}: no such file or folder"
    if path:
        inside = ", ".join(_inside(target)[:8])
        return f"{target.root} holds no array or group {path!r}" + (inside and f", but {inside}")
    return f"{target.uri} is no Zarr store: it has no {' or '.join(_METADATA[:3])}"
