"""Work beside a thread: one task at a time, and one that waits, so that memory is bounded.

Errors of a task are raised where a later one is begun, or where all are waited for.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")


class Background:
    """One thread that works beside the one that owns it."""

    def __init__(self, name: str) -> None:
        """Prepare; the thread starts with the first task.

        Args:
            name: of the thread.
        """
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._begun = deque[Future[Any]]()

    def __enter__(self) -> Self:
        """Use the thread until the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let the tasks end."""
        self._pool.shutdown()

    def begin(self, task: Callable[[], _T]) -> Future[_T]:
        """Begin a task after those before it; wait while there are two of them.

        Raises:
            BaseException: what a task before has raised.
        """
        while len(self._begun) > 1:
            self._begun.popleft().result()
        begun = self._pool.submit(task)
        self._begun.append(begun)
        return begun

    def wait(self) -> None:
        """Wait for all tasks.

        Raises:
            BaseException: what one of them has raised.
        """
        while self._begun:
            self._begun.popleft().result()
