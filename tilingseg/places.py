"""Where files stand: in a folder, or under a prefix of an object store (`s3://…`, `gs://…`).

Both are used as a `Path`: universal_pathlib gives the objects of a store the methods of files, and
fsspec knows credentials and endpoints as it does for scenes. What differs is kept here. An object
appears whole when it has been put, so that it needs neither a second name nor a flush; there are no
folders to make; nothing can be renamed, only copied; and the errors are those of the store's own
library.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tilingseg.errors import DependencyError

if TYPE_CHECKING:
    from collections.abc import Iterable

_SIGNATURE = re.compile(
    r"(x-(amz|goog)-[^=]*|awsaccesskeyid|googleaccessid|key-pair-id|policy|signature|expires|token|"
    r"access_token|sig|se|sp|spr|sr|st|sv|ske|skoid|sks|skt|sktid|skv)=",
    re.IGNORECASE,
)
"""Parameters of signed URLs: Amazon, Google, CloudFront, Azure and bearer tokens."""

_DRIVER_NAME = re.compile(
    r"(?P<head>(?:[A-Za-z]\w+:(?!//)|\d+:)+\"?)(?P<file>(?:[A-Za-z]:)?[^\":]+)(?P<rest>.*)"
)
"""Names that only GDAL understands, such as `GTIFF_DIR:2:a.tif` and `NETCDF:"a.nc":t`."""


def place(where: str | Path) -> Path:
    """Return the path of a folder, or of a prefix of an object store.

    Args:
        where: path or URL.

    Raises:
        DependencyError: a package is needed to reach it.
    """
    if isinstance(where, Path) or "://" not in str(where):
        return Path(where)
    if str(where).startswith("file://"):
        return Path(str(where).removeprefix("file://"))
    try:
        from upath import UPath

        # what other machines have written a moment ago must be seen
        path = UPath(str(where).rstrip("/"), use_listings_cache=False)
        assert path.fs is not None
    except (ImportError, ValueError) as error:
        raise DependencyError(
            f"{where} cannot be reached: {error}; pip install tilingseg[remote], or the package "
            "of fsspec for this kind of store"
        ) from error
    return cast("Path", path)


def absolute(uri: str, folder: Path | None = None) -> str:
    """Spell a local path in one way, absolute and without `..`; URLs stay as they are.

    Args:
        uri: path or URL of a scene or of another file, or a name that GDAL understands: the file in
            it is spelled so.
        folder: what a relative path is seen from; None: the current folder.
    """
    uri = uri.removeprefix("file://")
    if uri.startswith(("/vsi", "s3:", "http:", "https:")):
        return uri
    folder = (folder or Path.cwd()).absolute()
    if (found := _DRIVER_NAME.fullmatch(uri)) is not None and not (folder / uri).exists():
        is_here = (folder / found["file"]).exists()
        inner = absolute(found["file"], folder) if is_here else found["file"]
        return found["head"] + inner + found["rest"]
    if "://" in uri:
        return uri
    at_home = uri.startswith("~/")
    path = str(folder / (Path(uri).expanduser() if at_home else uri))
    plain = os.path.normpath(path)
    # behind a link to a folder, `..` is another place than in the text
    return plain if os.path.realpath(plain) == os.path.realpath(path) else path


def plain_name(text: str, otherwise: str) -> str:
    """Make a name out of any text that every file system takes as the name of a file.

    Args:
        text: what it comes from, such as a class name of somebody's model.
        otherwise: the name where nothing is left of it.
    """
    return safe_name(unicodedata.normalize("NFC", text)).strip("_.") or otherwise


def safe_name(text: str, also: str = "") -> str:
    """Put `_` for all but letters with their marks, digits, `_`, `.` and `-`.

    In many scripts vowels are marks, and words differ in nothing else. Letters with marks are
    spelled in one way, which file systems and keyboards do not do.

    Args:
        text: what it comes from.
        also: further characters that stay.
    """
    if any(map(_is_mark, text)):
        text = unicodedata.normalize("NFC", text)
    kept, gap = [""], " "
    for char in text:
        is_on_letter = _is_mark(char) and (kept[-1].isalnum() or _is_mark(kept[-1]))
        stays = char.isalnum() or char in "_.-" + also or is_on_letter
        if stays or kept[-1] != gap:
            kept.append(char if stays else gap)
    return "".join(kept).replace(gap, "_")


def _is_mark(char: str) -> bool:
    return char != "" and unicodedata.category(char)[0] == "M"


def unsigned(uri: str) -> str:
    """Leave out what signs a URL: the same object has another signature every night."""
    base, mark, query = uri.partition("?")
    if not mark or "://" not in base:
        return uri
    kept = [part for part in query.split("&") if not _SIGNATURE.match(part)]
    return base + mark * bool(kept) + "&".join(kept)


def is_remote(path: Path) -> bool:
    """Tell whether a path is on an object store."""
    return "://" in str(path)


def refusals(*more: type[Exception]) -> tuple[type[Exception], ...]:
    """Return the errors by which file systems and object stores refuse, and more."""
    found: list[type[Exception]] = [OSError, *more]
    for module, names in (
        ("botocore.exceptions", ("BotoCoreError", "ClientError")),
        ("aiohttp", ("ClientError",)),
        ("google.auth.exceptions", ("GoogleAuthError",)),
        ("azure.core.exceptions", ("AzureError",)),
    ):
        # an error of a library that was never loaded cannot have been raised
        found += [getattr(sys.modules[module], name) for name in names if module in sys.modules]
    return tuple(found)


def why(error: BaseException) -> str:
    """Put the reason of a refusal into one line."""
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__


def zarr_root(path: Path) -> dict[str, Any]:
    """Return the arguments that tell Zarr where a group is."""
    if not is_remote(path):
        return {"store": path}
    return {"store": str(path), "storage_options": dict(cast("Any", path).storage_options)}


def remove(path: Path) -> None:
    """Delete a file or a folder with all that is in it, where there is one."""
    if is_remote(path):
        if names := _names(path):
            _system(path).rm(names)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def upload(paths: Iterable[Path], folder: Path) -> None:
    """Copy local files and folders to a prefix of an object store, under their own names."""
    here, there = [], []
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                here.append(str(file))
                there.append(_key(folder / file.relative_to(path.parent).as_posix()))
    if here:
        _system(folder).put(here, there)


def move(path: Path, target: Path) -> None:
    """Move an object, or all under a prefix; what stood under the target's name goes at the end."""
    system, names = _system(path), _names(path)
    goals = [_key(target) + name.removeprefix(_key(path)) for name in names]
    earlier = set(_names(target)) - set(goals)
    system.copy(names, goals)
    system.rm([*names, *earlier])


def _names(path: Path) -> list[str]:
    """Return the keys of the object of this name and of all under it."""
    # not `find` on the key alone: `mask.tif` must not take `mask.tif.aux.xml` along
    key, system = _key(path), _system(path)
    names = [key] if system.isfile(key) else []
    return [*names, *(name for name in system.find(key + "/") if name != key)]


def _system(path: Path) -> Any:
    return cast("Any", path).fs


def _key(path: Path) -> str:
    return str(cast("Any", path).path)
