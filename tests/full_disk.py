"""Full disks: a small file system of its own, or files that cannot grow beyond a limit.

The limit holds for every file, standard output in a log included: leave the block before the test
ends, or the test runner itself fails to write its report.
"""

import subprocess
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


@contextmanager
def full_disk(path, size_kb):
    """A small file system; needs the right to mount."""
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "tmpfs", str(path)], capture_output=True
    )
    if done.returncode:
        pytest.skip(f"no right to mount a small file system: {done.stderr.decode().strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)
