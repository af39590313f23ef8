"""How far one scene is: which of its tasks can be handed out, which have failed and why.

Its regions come first, then the levels of the tree that makes its vectors. A level begins when the
one before is complete; where something has failed, no further one begins.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tilingseg.cluster.tasks import Opened, SceneJob

REGIONS = -1
"""The level of the regions; levels of the tree count from 0."""
OPENING = -1
"""Where `Course.attempts` counts the attempts at the scene itself."""
NAMED = 3
"""Failed tasks that a message names; all of them are in its count."""


@dataclass(slots=True, eq=False)
class Course:
    """A scene that is under way."""

    job: SceneJob
    start_s: float = field(default_factory=time.monotonic)
    opened: Opened | None = None
    """What opening it found; None: not open yet."""
    level: int = REGIONS
    """What is being done."""
    ready: deque[int] = field(default_factory=deque)
    """Tasks of the level to hand out."""
    suspects: deque[int] = field(default_factory=deque)
    """Tasks to try alone."""
    flying: int = 0
    """Tasks that are with the workers."""
    failures: dict[int, str] = field(default_factory=dict)
    """Reasons, by task of the level."""
    attempts: dict[int, int] = field(default_factory=dict)
    broken: str = ""
    """Why no more tasks are handed out: an output that cannot be written."""

    @property
    def ticket(self) -> str:
        """Ticket of its work store; empty: not open yet."""
        return "" if self.opened is None else self.opened.ticket

    @property
    def n_resumed(self) -> int:
        """Regions that an earlier run had completed."""
        return 0 if self.opened is None else self.opened.n_regions - len(self.opened.missing)

    @property
    def is_waiting(self) -> bool:
        """Whether tasks of its level are still to be done."""
        return bool(self.flying or self.ready or self.suspects)

    @property
    def has_failed(self) -> bool:
        """Whether it cannot be published."""
        return bool(self.broken or self.failures)

    def begin(self, opened: Opened) -> None:
        """Go on to the regions."""
        self.opened = opened
        self.ready.extend(opened.missing)

    def advance(self) -> bool:
        """Go on to the next level; False: nothing is left but to publish the scene."""
        assert self.opened is not None
        if self.level + 1 == len(self.opened.n_parts):
            return False
        self.level += 1
        self.attempts.clear()
        self.ready.extend(range(self.opened.n_parts[self.level]))
        return True

    def give_up(self, reason: str) -> None:
        """Hand out nothing more."""
        self.broken = reason
        self.ready.clear()
        self.suspects.clear()

    def reason(self) -> str:
        """Say why it has failed."""
        if self.broken:
            return f"{self.broken}; complete regions are kept"
        assert self.opened is not None
        failed, n_tasks, kind = self.failures, self.opened.n_regions, "region"
        if self.level != REGIONS:
            n_tasks, kind = self.opened.n_parts[self.level], f"vector task of level {self.level},"
        named = "; ".join(f"{kind} {index}: {failed[index]}" for index in sorted(failed)[:NAMED])
        more = f"; and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
        tasks = "regions" if self.level == REGIONS else "vector tasks"
        return (
            f"{len(failed):,} of {n_tasks:,} {tasks} failed ({named}{more}); "
            f"the other {n_tasks - len(failed):,} are kept, another try does the rest"
        )
