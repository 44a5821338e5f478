"""Signals that end the process at once: while there is no call to drain, or when somebody asks a second time.

It imports next to nothing, so that it can be used before anything else is imported.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

STOP = (signal.SIGTERM, signal.SIGINT)


def exit_at_once_on(*numbers: signal.Signals) -> None:
    """End the process on these signals; its exit status is 128 and the signal's number, as a shell reports it."""
    for number in numbers:
        signal.signal(number, _exit)


def _exit(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + number)
