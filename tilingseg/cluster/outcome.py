"""What became of a scene, and how far a batch is."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tilingseg.errors import TilingSegError

if TYPE_CHECKING:
    from tilingseg.cluster.tasks import SceneJob
    from tilingseg.records import RunReport


_NO_PLACE = tuple(map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EROFS)))
"""What full and locked disks say, GDAL's messages and those of other machines included."""
_LOST = tuple(map(os.strerror, (errno.ESTALE, errno.ENOTCONN)))
"""What lost disks say: also of a scene to read, while others may lie elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one scene."""

    job: SceneJob
    """Which scene."""
    report: RunReport | None
    """What was done; None: it failed."""
    reason: str = ""
    """Why it failed, one line."""
    in_output: bool = False
    """Whether it was an output that failed."""
    seconds: float = 0.0
    """From its first task to its last, seconds."""
    is_busy: bool = False
    """Whether it was left to another process that is at work on it."""

    @property
    def ends_the_batch(self) -> bool:
        """Whether it failed for a reason that lets all others fail too: nothing can be written."""
        texts = _NO_PLACE + (_LOST if self.in_output else ())
        return self.report is None and any(text in self.reason for text in texts)


@dataclass(slots=True, kw_only=True)
class BatchState:
    """How far a batch is; scenes that were done before do not count."""

    n_scenes: int
    """Scenes to do."""
    n_scenes_opened: int = 0
    """Scenes whose regions are known."""
    n_scenes_done: int = 0
    """Scenes that ended, well or not."""
    n_scenes_failed: int = 0
    """Scenes that failed."""
    n_regions_opened: int = 0
    """Regions of the opened scenes."""
    n_regions_done: int = 0
    """Regions that are complete."""
    n_parts_opened: int = 0
    """Tasks that make the vectors of the opened scenes."""
    n_parts_done: int = 0
    """Those that are done."""
    n_tiles_done: int = 0
    """Tiles that are done, where scenes are done one after the other."""
    scene_share: float = 0.0
    """Part of the scene under way that is done, 0…1, there as well."""
    n_workers: int = 0
    """Workers at the last look."""

    @property
    def share(self) -> float:
        """Part of the work that is done, 0…1: scenes not yet opened count as the mean of others."""
        if self.n_scenes_done >= self.n_scenes:
            return 1.0
        if not self.n_regions_opened:
            return (self.n_scenes_done + self.scene_share) / self.n_scenes
        n_tasks = self.n_regions_opened + self.n_parts_opened
        n_done = self.n_regions_done + self.n_parts_done
        return min(1.0, n_done / (n_tasks * self.n_scenes / self.n_scenes_opened))


class Watch(Protocol):
    """Told how far a batch is."""

    def __call__(self, state: BatchState) -> None:
        """Take note of the state, which goes on changing."""


def reason_of(error: BaseException) -> str:
    """Put an error into one line; those that nobody foresaw with the name of their type."""
    text = " ".join(str(error).split())
    return text if isinstance(error, TilingSegError) else f"{type(error).__name__}: {text}"
