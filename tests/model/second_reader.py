"""A second thread beside the event loop: every interleaving of its reads with the parts of the writers' steps.

A writer's step has parts, between which the interpreter may switch threads. The reader takes its parts one by one too.
Its answer is right if the loop would have given it at some moment of the call, between two steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

PROTECTIONS = ("an odd generation is refused", "the generation is read again", "the view is read within the call")
ABSENT = 0


class View(NamedTuple):
    """What threads share. `held`: the revision of each of two flags that exist, ABSENT if it is not held."""

    held: tuple[int, int] = (1, 2)
    complete: bool = True
    watermark: int = 2
    verified_at: int = 0
    generation: int = 0


Part = Callable[[View], View]


def put(flag: int, revision: int) -> Part:
    """Hold a revision of a flag, or ABSENT."""
    return lambda v: v._replace(held=(revision, v.held[1]) if flag == 0 else (v.held[0], revision))


def now(**fields: object) -> Part:
    """Change the other fields."""
    return lambda v: v._replace(**fields)  # type: ignore[arg-type]


Step = tuple[Part, ...]
STEPS: dict[str, tuple[Step, ...]] = {
    "a change": ((put(0, 3), now(watermark=3)),),
    "a change whose watermark moves first": ((now(watermark=3), put(0, 3)),),
    "an eviction": ((put(0, ABSENT), now(complete=False)),),
    "an eviction after which a load is whole": (
        (put(0, ABSENT), now(complete=False)),
        (put(0, 3),),
        (now(complete=True), now(verified_at=1), now(watermark=3)),
    ),
    "a load of a view that was empty": (
        (now(complete=False), put(0, ABSENT), put(1, ABSENT)),
        (put(1, 4),),
        (put(0, 3), now(complete=True), now(verified_at=1), now(watermark=4)),
    ),
    "everything read again, in an order that could mislead": (
        (now(verified_at=1), now(watermark=4), put(0, 3), put(1, 4)),
    ),
}
"""What writers do: each step with its parts, in some order. Any order is right."""


class Answer(NamedTuple):
    """A revision, or that there is no such flag; and what is claimed of it."""

    revision: int
    verified_at: int
    watermark: int


def answer_of(v: View) -> Answer | None:
    """Return what the event loop answers for the first flag; None if it has to ask."""
    return Answer(v.held[0], v.verified_at, v.watermark) if v.complete else None


class Reader(NamedTuple):
    """The second thread's call: how far it is, and what it has read."""

    at: int = 0
    generation: int = 0
    complete: bool = False
    watermark: int = 0
    verified_at: int = 0
    revision: int = 0
    refused: bool = False


READS: tuple[Callable[[Reader, View], Reader], ...] = (
    lambda r, v: r._replace(generation=v.generation),
    lambda r, v: r._replace(complete=v.complete),
    lambda r, v: r._replace(revision=v.held[0]),
    lambda r, v: r._replace(verified_at=v.verified_at),
    lambda r, v: r._replace(watermark=v.watermark),
)


def misread(steps: tuple[Step, ...], without: str = "") -> Iterator[tuple[Answer, list[Answer | None]]]:
    """Yield each answer of the second thread that the loop would not have given, with those that it would have."""
    parts: list[Part] = []
    for step in steps:
        parts += [_begins, *step, _ends]
    views = [View()]
    for part in parts:
        views.append(part(views[-1]))
    # The call begins before any part of the writer, and each of its reads sees what all parts before it have left.
    for begun in range(len(views)):
        # Without the last protection the view may have been read before the call began.
        earliest = 0 if without == PROTECTIONS[2] else begun
        for moments in _not_falling(earliest, len(views), len(READS) + 1):
            found = _read(views, moments, without)
            if found is None:
                continue
            possible = [answer_of(v) for v in views[begun : max(moments[-1], begun) + 1] if v.generation % 2 == 0]
            if found not in possible:
                yield found, possible


def _read(views: list[View], moments: tuple[int, ...], without: str) -> Answer | None:
    reader = Reader()
    for read, moment in zip(READS, moments, strict=False):
        reader = read(reader, views[moment])
    is_odd = reader.generation % 2 and without != PROTECTIONS[0]
    has_changed = views[moments[-1]].generation != reader.generation and without != PROTECTIONS[1]
    if is_odd or has_changed or not reader.complete:
        return None
    return Answer(reader.revision, reader.verified_at, reader.watermark)


def _not_falling(first: int, end: int, count: int) -> Iterator[tuple[int, ...]]:
    """Yield every way in which so many reads can fall between the parts."""
    if not count:
        yield ()
        return
    for moment in range(first, end):
        for rest in _not_falling(moment, end, count - 1):
            yield (moment, *rest)


def _begins(v: View) -> View:
    return v._replace(generation=v.generation + 1)


_ends = _begins
