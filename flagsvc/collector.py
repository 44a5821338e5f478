"""Python's garbage collector, kept from stopping the process: what a load made is never looked at.

A full collection over the compiled rules of 50,000 flags takes half a second. They are freed by reference counts.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

THRESHOLDS = (10_000, 100, 20)
"""New objects until the youngest are collected (1 ms), and how many collections of each generation until the next."""
FREEZE_EVERY = 200
"""Rules compiled between two calls of `freeze`: it then collects some thousand objects."""


def configure() -> None:
    """Set how often the process collects."""
    gc.set_threshold(*THRESHOLDS)


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Collect nothing meanwhile: nearly everything that a load makes stays."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def freeze() -> None:
    """Collect the youngest objects, and never look again at those that remain."""
    gc.collect(0)
    gc.freeze()


def freeze_load() -> None:
    """Never look again at what a load has made. Garbage in circles from that time stays too, so only for rare loads."""
    gc.freeze()
