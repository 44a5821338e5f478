"""Python's garbage collector, kept from stopping the process: no collection looks at many objects.

A full collection over the compiled rules of 50,000 flags takes half a second, and nothing of it is garbage: flags and
rules are freed by reference counts. So what stays is never looked at, and what is read for a while is looked at while
it is young.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

THRESHOLDS = (5_000, 3, 20)
"""New objects until the youngest are collected (0.5 ms), and how many collections of each generation until the next.

The second collection looks at 20,000 objects at most, which takes 2 ms.
"""
NEVER = 2**31 - 1
FREEZE_EVERY = 500
"""Rules compiled between two calls of `freeze`. A full collection over fewer takes 5 ms."""
FREEZE_FROM = 20_000
"""New objects from which on a load is frozen."""

_young_only = 0


def configure() -> None:
    """Set how often the process collects."""
    gc.set_threshold(*THRESHOLDS)


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Collect nothing meanwhile: nearly everything that a load makes stays, and `freeze_load` is called at its end."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def young_only() -> Iterator[None]:
    """Collect only young objects meanwhile: something large is read that does not stay."""
    global _young_only  # noqa: PLW0603  the process has one collector
    _young_only += 1
    first, second, third = gc.get_threshold()
    gc.set_threshold(first, second, NEVER)
    try:
        yield
    finally:
        _young_only -= 1
        if not _young_only:
            gc.set_threshold(first, second, THRESHOLDS[2] if third == NEVER else third)


def freeze() -> None:
    """Collect the youngest objects, and never look again at those that remain."""
    gc.collect(0)
    gc.freeze()


def freeze_load() -> None:
    """Never look again at what a large load has made, while collections were paused.

    What calls use at this moment stays too, if it ends in circles. So a small load is left to collections: they take
    little time, and callers who resync a small store again and again would fill the memory.
    """
    if gc.get_count()[0] >= FREEZE_FROM:
        gc.freeze()
