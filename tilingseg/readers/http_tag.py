"""The tag by which a web server tells one content of a URL from another.

A run that goes on must know that its scene is still the same. The tag must not depend on luck: a
server that is asked in vain is asked again, and one that stays silent ends the command, as a scene
without its tag would look like another one.
"""

from __future__ import annotations

import http.client
import ssl
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

from tilingseg.errors import SceneError

if TYPE_CHECKING:
    from tilingseg.readers.gdal_access import GdalTarget

_TIMEOUT_S = 5.0
_WAITS_S = (0.5, 2.0)
"""Before each further attempt."""
_PASSING = (408, 425, 429)
"""HTTP errors below 500 that the next request need not meet."""


def http_tag(target: GdalTarget) -> str | None:
    """Return a server's tag for the content of a URL and its size.

    Args:
        target: the scene, which GDAL has opened.

    Returns:
        None where it is no URL, or the server gives neither or does not want to be asked this way.

    Raises:
        SceneError: the server does not answer.
    """
    url = target.path.removeprefix("/vsicurl/")
    if not url.lower().startswith(("http://", "https://")):
        return None
    for wait in (*_WAITS_S, None):
        try:
            return _ask(url)
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in _PASSING:
                return None
            reason = f"HTTP {error.code}"
        except (OSError, http.client.HTTPException) as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(cause, ssl.SSLCertVerificationError):
                return None  # GDAL was told to trust it
            reason = " ".join(str(cause).split()) or type(cause).__name__
        except ValueError:
            return None
        if wait is not None:
            time.sleep(wait)
    raise SceneError(
        f"{target.uri}: the server does not tell whether the file is still the same ({reason}); "
        "repeat the command (where GDAL alone knows the proxy, set HTTPS_PROXY too)"
    )


def _ask(url: str) -> str | None:
    # One byte instead of HEAD, which signed URLs refuse.
    request = urllib.request.Request(url, headers={"Range": "bytes=0-0"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as reply:
        headers = reply.headers
    tag = headers.get("ETag") or headers.get("Last-Modified") or ""
    size = (headers.get("Content-Range") or "").rpartition("/")[2]
    size = size or headers.get("Content-Length") or ""
    return f"{tag}-{size}" if tag or size else None
