"""What a full disk does, without one: files of this process cannot grow beyond a limit.

The limit holds for every file, standard output in a log included: leave the block before the test
ends, or the test runner itself fails to write its report.
"""

from contextlib import contextmanager

import pytest


@contextmanager
def files_up_to(limit_bytes):
    """Let no file grow beyond a limit inside the block."""
    resource = pytest.importorskip("resource", reason="needs limits of POSIX")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
