"""Work divided among processes: results in order, in bounded memory.

Workers begin as fresh interpreters: threads and locks of the caller (torch, GDAL) do not survive a
plain fork. Python would also run the caller's program again in every worker, which for a script
without an `if __name__ == "__main__"` means that each of them starts the whole run anew. Nothing
here needs that program, so workers do not get to see it.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

from tilingseg.errors import VectorizeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_processes(
    function: Callable[[_Item], _Result], items: Iterable[_Item], workers: int, preload: str
) -> Iterator[_Result]:
    """Apply a function to items in processes.

    Args:
        function: from a module, so that workers find it by its name; not from the main program.
        items: drawn as workers become free, with two waiting for each of them.
        workers: processes.
        preload: module that workers need: loaded once, its memory shared by all where that works.

    Yields:
        The results, in the order of the items.

    Raises:
        VectorizeError: a process was killed.
    """
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([preload])
    waiting: deque[Future[_Result]] = deque()
    try:
        with ProcessPoolExecutor(workers, context, _end_with_parent) as pool:
            for item in items:
                with _main_program_hidden():
                    waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise VectorizeError(
            "a process that makes vectors was killed, perhaps for lack of memory; "
            "repeat the command to go on"
        ) from error


def _end_with_parent() -> None:
    """End this worker when the process that asked for it dies: killed, it cannot say so itself."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait_for_it() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_for_it, daemon=True).start()


@contextmanager
def _main_program_hidden() -> Iterator[None]:
    """Let processes that are started inside take an empty module for the caller's program."""
    program = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = program
