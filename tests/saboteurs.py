"""What tests do to workers: functions that a client sends to them, to be undone by `mend`."""

import os
import time
from pathlib import Path

import tilingseg.cluster.tasks as tasks

ORIGINAL = tasks.run_region


def note_regions(folder):
    """Note each region that is begun: `<region> <pid>`, one file a line."""

    def run_region(job, store, region, *more):
        note(folder, f"{region.index}")
        return ORIGINAL(job, store, region, *more)

    tasks.run_region = run_region


def note(folder, text):
    (Path(folder) / f"{text} {os.getpid()} {time.monotonic_ns()}").touch()


def noted(folder):
    """Return what was noted: (text, pid) pairs in order."""
    rows = [path.name.split() for path in Path(folder).iterdir()]
    return [(row[0], int(row[1])) for row in sorted(rows, key=lambda row: int(row[2]))]


def linger_in_regions(folder):
    """Note the process and stay in the first region that is begun."""

    def run_region(job, store, region, *more):
        note(folder, f"{region.index}")
        time.sleep(60)

    tasks.run_region = run_region


def fail_in(index, folder):
    """Fail in one region, always."""

    def run_region(job, store, region, *more):
        if region.index == index:
            note(folder, f"{region.index}")
            raise OSError("the network file system is away")
        return ORIGINAL(job, store, region, *more)

    tasks.run_region = run_region


def swallow_memory(folder, n_bytes):
    """Take more memory than a worker may have, in the first region that is begun."""

    def run_region(job, store, region, *more):
        note(folder, f"{region.index}")
        kept = bytearray(os.urandom(1 << 20) * (n_bytes >> 20))
        time.sleep(60)
        assert kept

    tasks.run_region = run_region


def note_writes(folder):
    """Note the keys that each process writes to a store of chunks."""
    from zarr.storage import FsspecStore, LocalStore

    for kind in (LocalStore, FsspecStore):
        original = getattr(kind.set, "original", kind.set)

        async def set_(self, key, *more, original=original, **named):
            if "/c/" in key:
                root = str(getattr(self, "root", "") or self.path)
                note(folder, f"{root}/{key}".replace("/", "|"))
            return await original(self, key, *more, **named)

        set_.original = original
        kind.set = set_


def mend():
    """Undo all that."""
    from zarr.storage import FsspecStore, LocalStore

    tasks.run_region = ORIGINAL
    for kind in (LocalStore, FsspecStore):
        kind.set = getattr(kind.set, "original", kind.set)
