"""Ctrl-C and SIGTERM between two steps, not within one: a half-made step cannot be continued.

The first signal is remembered and the loop asks for it when a step is whole; the second one acts at
once, as if nobody had listened. What is ignored stays ignored, as in a job under `nohup`.
"""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Listens while it is entered; in the main thread alone, since no other one gets signals."""

    def __init__(self) -> None:
        """Begin without a signal."""
        self.asked = False
        """Whether somebody asked the job to end."""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        """Take the place of the handlers that are there."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Give them their place back.

        Raises:
            KeyboardInterrupt: nobody asked for a signal that came, as in the very last step.
        """
        self._restore()
        if self.asked and error is None:
            raise KeyboardInterrupt

    def _remember(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True
        self._restore()

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())
