"""How late the event loop is: measured all the time, and with a debug setting also what held it."""

from __future__ import annotations

import asyncio
import faulthandler
import re
import tempfile
import threading
import time
from collections.abc import Callable

import structlog

CHECK_EVERY_S = 0.02
"""Seconds between two measurements: what holds the loop longer than that cannot hide between them."""
MAX_FRAMES = 12
_FRAME = re.compile(r'  File "(.*)", line (\d+) in (.*)')

log = structlog.get_logger(__name__)


class LoopLag:
    """Measures by how many seconds a wake-up is late; `observe` gets each measurement.

    `log_over_s`: a thread logs where the loop is when it has been held that long; 0 turns that off.
    """

    def __init__(self, observe: Callable[[float], None], log_over_s: float = 0.0) -> None:
        self._observe, self._log_over_s = observe, log_over_s
        self._due_at = time.monotonic()
        self._stopped = threading.Event()

    async def run(self) -> None:
        """Measure until cancelled."""
        if self._log_over_s:
            watched = threading.get_ident()
            threading.Thread(target=self._watch, args=(watched,), name="loop-lag", daemon=True).start()
        try:
            while True:
                self._due_at = time.monotonic() + CHECK_EVERY_S
                await asyncio.sleep(CHECK_EVERY_S)
                self._observe(max(0.0, time.monotonic() - self._due_at))
        finally:
            self._stopped.set()

    def _watch(self, watched: int) -> None:
        """Log each time that the loop is held too long, once, with the code that it is in."""
        logged_for = 0.0
        while not self._stopped.wait(self._log_over_s / 4):
            late_s = time.monotonic() - self._due_at
            if late_s > self._log_over_s and self._due_at != logged_for:
                logged_for = self._due_at
                log.warning("loop_held", for_ms=round(late_s * 1000, 1), code=code_of(watched))


def code_of(thread: int) -> list[str]:
    """Return where a thread is, the innermost call last: `FILE:LINE FUNCTION` of at most MAX_FRAMES calls.

    Python cannot read the frames of a thread that runs: reading one allocates, a collection of garbage may then let
    the other thread go on, and its frames are freed. Python 3.11 stands still or crashes. This makes no objects.
    """
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file)
        file.seek(0)
        _, *threads = file.read().decode(errors="replace").split("hread 0x")
    of_thread = next((text for text in threads if int(text.split()[0], 16) == thread), "")
    found = [f"{file}:{line} {name}" for file, line, name in _FRAME.findall(of_thread)]
    return found[:MAX_FRAMES][::-1]
