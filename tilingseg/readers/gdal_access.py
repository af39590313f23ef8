"""Opening files with GDAL: where they are, under which settings, and what it means when it fails.

GDAL's own network file systems do the remote reading, so that credentials, proxies and mirrors work
as they do in every other GDAL program. Settings of the user, from the environment or a
`rasterio.Env` that is active, win over the defaults here, and travel with a pickled reader.
"""

from __future__ import annotations

import os
import re
import threading
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
import rasterio.env
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.session import DummySession

from tilingseg.errors import SceneError
from tilingseg.places import unsigned

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOCAL_SETTINGS: tuple[tuple[str, Any], ...] = (
    # Bytes, and an int: rasterio hands this one to GDAL for the whole process. Holds a row of
    # 512-pixel blocks of a scene 100,000 px wide; GDAL's own default is 5 % of the machine.
    # `fit_cache` takes less where less will do.
    ("GDAL_CACHEMAX", 256_000_000),
    # Handles of different threads must not meet in one source file of a mosaic.
    ("VRT_SHARED_SOURCE", "0"),
)
_REMOTE_SETTINGS: tuple[tuple[str, Any], ...] = (
    *_LOCAL_SETTINGS,
    # Without it, every open lists the whole folder.
    ("GDAL_DISABLE_READDIR_ON_OPEN", "EMPTY_DIR"),
    ("GDAL_HTTP_MERGE_CONSECUTIVE_RANGES", "YES"),
    ("GDAL_HTTP_MULTIPLEX", "YES"),
    ("GDAL_INGESTED_BYTES_AT_OPEN", "32768"),
    ("VSI_CACHE", "TRUE"),
    ("VSI_CACHE_SIZE", "16000000"),
    ("GDAL_HTTP_CONNECTTIMEOUT", "10"),
    # A server that stalls is given up after half a minute, not waited for.
    ("GDAL_HTTP_LOW_SPEED_TIME", "30"),
    ("GDAL_HTTP_LOW_SPEED_LIMIT", "1"),
    ("GDAL_HTTP_MAX_RETRY", "6"),
    ("GDAL_HTTP_RETRY_DELAY", "0.5"),
)
_OPENING: dict[str, str] = {
    # A wrong address must fail in seconds; a hiccup in the middle of a run must not end it.
    "GDAL_HTTP_MAX_RETRY": "1",
    "GDAL_HTTP_CONNECTTIMEOUT": "5",
}
_FILE_SYSTEMS = {
    "http": "/vsicurl/http://",
    "https": "/vsicurl/https://",
    "s3": "/vsis3/",
    "gs": "/vsigs/",
    "az": "/vsiaz/",
}

_LEAST_CACHE_BYTES = 64_000_000
_READ_ROWS_PX, _READ_COLS_PX = 2048, 8192
"""Source pixels within which windows of a run overlap: a row of tiles, as wide as a region, twice
as far where the scene is resampled."""

GDAL_ERRORS = (RasterioError, CPLE_BaseError)
"""What rasterio raises when GDAL fails: some calls translate GDAL's own exceptions, some do not."""

_opening = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class GdalTarget:
    """What to hand to GDAL, and under which settings."""

    uri: str
    """As the user wrote it, without what signs a URL: this goes into plans and messages."""
    path: str
    """As GDAL wants it."""
    is_remote: bool
    """It is read over a network."""
    settings: tuple[tuple[str, Any], ...]
    """GDAL configuration that the user's session had when the scene was opened, and defaults for
    what it left open."""

    @property
    def local(self) -> Path | None:
        """The file on this machine; None: remote, or a name that only GDAL understands."""
        return None if self.is_remote or not Path(self.path).exists() else Path(self.path)


def locate_target(uri: str) -> GdalTarget:
    """Translate a path or URL and collect the settings to read it under.

    Raises:
        SceneError: there is no name.
    """
    if not uri.strip():
        raise SceneError("the name of the raster is empty; give a path or URL")
    scheme, separator, rest = uri.partition("://")
    path = uri
    if separator and scheme.lower() in _FILE_SYSTEMS:
        path = _FILE_SYSTEMS[scheme.lower()] + rest
    elif separator and scheme.lower() == "file":
        path = rest
    network = r"/vsi(curl|s3|gs|az|adls|oss|swift|hdfs|webhdfs)"
    is_remote = re.search(network, path) is not None or bool(separator and path == uri)
    defaults = _REMOTE_SETTINGS if is_remote else _LOCAL_SETTINGS
    session = rasterio.env.getenv() if rasterio.env.hasenv() else {}
    settings = {key: value for key, value in defaults if key not in os.environ} | session
    return GdalTarget(
        uri=unsigned(uri),
        path=path,
        is_remote=is_remote,
        settings=tuple(sorted(settings.items())),
    )


def fit_cache(target: GdalTarget, dataset: Any) -> GdalTarget:
    """Let GDAL's block cache hold what neighbouring tiles share, and not whole scenes.

    Args:
        target: the scene; a cache size that the user has set is kept.
        dataset: the same, open.
    """
    default = dict(_LOCAL_SETTINGS)["GDAL_CACHEMAX"]
    settings = dict(target.settings)
    if settings.get("GDAL_CACHEMAX") != default:
        return target
    block_rows, block_cols = dataset.block_shapes[0]
    rows = min(dataset.height, _READ_ROWS_PX + block_rows)
    # A strip is decoded whole, however little of it is wanted.
    cols = min(dataset.width, _READ_COLS_PX + block_cols)
    pixel_bytes = sum(np.dtype(dtype).itemsize for dtype in dataset.dtypes)
    needed = max(_LEAST_CACHE_BYTES, rows * cols * pixel_bytes)
    settings["GDAL_CACHEMAX"] = min(default, needed)
    return replace(target, settings=tuple(sorted(settings.items())))


@contextmanager
def gdal_settings(target: GdalTarget, **changes: str) -> Iterator[None]:
    """Run GDAL calls of this thread under the target's settings.

    Args:
        target: the scene.
        **changes: settings to use instead, where the user has not set them.
    """
    own = dict(_REMOTE_SETTINGS)
    settings = dict(target.settings)
    settings |= {key: new for key, new in changes.items() if settings.get(key) == own.get(key)}
    # GDAL looks for credentials itself; a session object would need boto3 at every read.
    with rasterio.Env(session=DummySession(), **settings):
        yield


def open_dataset(target: GdalTarget, **options: Any) -> Any:
    """Open a file for reading.

    Args:
        target: the scene.
        **options: open options of GDAL, such as OVERVIEW_LEVEL.

    Returns:
        A rasterio dataset, to be used under `gdal_settings`.

    Raises:
        SceneError: with the reason, on one line.
    """
    _refuse_unreadable(target)
    try:
        # A missing georeference is said in the scene's notes, where the user sees it. The warning
        # filters belong to the whole process, so that threads take turns.
        with (
            _opening,
            warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning),
            gdal_settings(target, **_OPENING),
        ):
            return rasterio.open(target.path, **options)
    except GDAL_ERRORS as error:
        raise SceneError(_why_not_open(target, error)) from error


def _refuse_unreadable(target: GdalTarget) -> None:
    """Name the plain reasons, which GDAL reports as an unsupported format."""
    path = Path(target.path)
    if target.is_remote or target.path.startswith("/vsi"):
        return
    try:
        size = path.stat().st_size
    except OSError as error:
        # Not a file: still fine where it is a name that only GDAL understands, NETCDF:"x.nc":t.
        if ":" not in target.path and "<" not in target.path:
            raise SceneError(f"{target.uri}: {error.strerror or 'no such file'}") from error
        return
    if path.is_dir():
        return
    if size == 0:
        raise SceneError(f"{target.uri} is empty (0 bytes)")
    if not os.access(path, os.R_OK):
        raise SceneError(f"{target.uri}: permission denied")


def _why_not_open(target: GdalTarget, error: Exception) -> str:
    reason = reason_of(error, target)
    if "not recognized as being in a supported file format" in reason:
        if Path(target.path).is_dir():
            return f"{target.uri} is a folder, and neither Zarr nor a raster format of GDAL"
        return f"{target.uri} is no raster in a format that GDAL {rasterio.__gdal_version__} reads"
    if "response code: 404" in reason:
        return f"{target.uri}: the server has no such file (HTTP 404)"
    if target.is_remote:
        return f"{target.uri} cannot be reached: {reason}"
    return f"{target.uri} cannot be opened: {reason}"


def reason_of(error: BaseException, target: GdalTarget) -> str:
    """Return the innermost message of GDAL on one line, with the scene as the user calls it."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split()) or type(error).__name__
    for name in (target.path, target.path.removeprefix("/vsicurl/")):
        text = text.replace(name, target.uri)
    return text
