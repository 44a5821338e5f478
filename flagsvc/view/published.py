"""What a second thread may read of the near cache: its state between two steps of the writers, or nothing.

The event loop changes the near cache in steps, between which any caller may be answered. Whoever runs in the loop never
sees a step half done. A second thread could: so a generation is odd while a step runs, and even between two. A reader
that finds it even, and the same afterwards, has read what a caller in the loop would have been answered then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Concatenate, NamedTuple, ParamSpec, Protocol, TypeVar

from flagsvc.core.model import FlagId
from flagsvc.view.answerable import VerifiedView, verified_in_time
from flagsvc.view.entries import CacheEntry

P = ParamSpec("P")
T = TypeVar("T")
V = TypeVar("V", bound="HasSteps")


class HasSteps(Protocol):
    """What is changed in steps."""

    steps: Steps


class Steps:
    """The writers' steps, as a context manager around each. Only the event loop uses it; a step may be part of another.

    `generation`: odd while a step runs.
    """

    __slots__ = ("_depth", "generation")

    def __init__(self) -> None:
        self.generation = 0
        self._depth = 0

    def __enter__(self) -> None:
        if not self._depth:
            self.generation += 1
        self._depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if not self._depth:
            self.generation += 1

    def each_of(self, work: Iterator[None]) -> Iterator[None]:
        """Yield between the steps of long work."""
        while True:
            with self:
                try:
                    next(work)
                except StopIteration:
                    return
            yield


def in_a_step(method: Callable[Concatenate[V, P], T]) -> Callable[Concatenate[V, P], T]:
    """Let a view's method be one step."""

    def stepped(view: V, /, *arguments: P.args, **options: P.kwargs) -> T:
        with view.steps:
            return method(view, *arguments, **options)

    stepped.__doc__ = method.__doc__
    return stepped


class Publisher(VerifiedView, HasSteps, Protocol):
    """A view that is changed in steps."""

    def peek(self, flag_id: FlagId) -> CacheEntry | None:
        """Return what is held of a flag. It changes nothing, not even the order of use."""


class Seen(NamedTuple):
    """What may be answered. `held` None: there is no such flag. `verified_at`: the moment as of which that is so."""

    held: CacheEntry | None
    verified_at: float


def read(view: Publisher, flag_id: FlagId, now: float, min_revision: int = 0) -> Seen | None:
    """Return what may be answered of a flag; None if the event loop has to answer.

    It may run in any thread. `now` must not be later than the call, and what is read is never older than the call: a
    caller who saw a change elsewhere, and asks then, gets it. Only a whole view is read: a partial one has to record
    what it answers.
    """
    steps = view.steps
    generation = steps.generation
    if generation % 2 or not view.complete:
        return None
    held = view.peek(flag_id)
    verified_at = verified_in_time(view, held, flag_id.flag_set, now, min_revision)
    if verified_at is None or steps.generation != generation:
        return None
    return Seen(held, verified_at)
