"""A tick: everything that is remembered of a moment becomes one tick older."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from tests.model.state import NEVER, STEPS, Beat, Commit, Mark, Replica, Setup, Shared, State


def passed(setup: Setup, s: State) -> State:
    """Let a tick pass."""
    return s._replace(
        store=_store(setup, s.store),
        replicas=(_replica(setup, s.replicas[0]), _replica(setup, s.replicas[1])),
        writers=_callers(setup, s.writers),
        readers=_callers(setup, s.readers),
        flight=s.flight and s.flight._replace(as_of=_older(setup, s.flight.as_of)),
        shared=_shared(setup, s.shared),
        saved=_shared(setup, s.saved),
    )


def _older(setup: Setup, at: int) -> int:
    """What is older than everything that asks for an age needs no exact one; the store's state then still counts."""
    at -= STEPS
    oldest = -(setup.bound + 1) * STEPS
    if at >= oldest + STEPS:
        return at
    return oldest + at % STEPS if setup.exact and at > NEVER else NEVER


@lru_cache(100_000)
def _store(setup: Setup, store: tuple[Commit, ...]) -> tuple[Commit, ...]:
    return tuple(commit._replace(tick=max(commit.tick - 1, -setup.bound - 1)) for commit in store)


@lru_cache(100_000)
def _callers(setup: Setup, callers: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(caller._replace(as_of=_older(setup, caller.as_of)) for caller in callers)


@lru_cache(100_000)
def _replica(setup: Setup, r: Replica) -> Replica:
    return r._replace(
        held_as_of=_older(setup, r.held_as_of),
        as_of=_older(setup, r.as_of),
        heard=_older(setup, r.heard),
        told_until=_older(setup, r.told_until),
        since=_older(setup, r.since),
        look=r.look and r.look._replace(asked=_older(setup, r.look.asked)),
        keeping=r.keeping and r.keeping._replace(as_of=_older(setup, r.keeping.as_of)),
        mark=_mark(setup, r.mark),
        inbox=tuple(_message(setup, m) for m in r.inbox),
    )


def _message(setup: Setup, message: Any) -> Any:
    if not isinstance(message, Beat):
        return message
    as_of = message.as_of
    if "a heartbeat counts from when it was sent" not in setup.without:
        as_of = _older(setup, as_of)
    return message._replace(as_of=as_of, since=_older(setup, message.since))


@lru_cache(100_000)
def _shared(setup: Setup, shared: Shared) -> Shared:
    return shared._replace(as_of=_older(setup, shared.as_of), mark=_mark(setup, shared.mark))


def _mark(setup: Setup, mark: Mark | None) -> Mark | None:
    """A mark whose time is over is gone."""
    if mark is None or -((mark.upto - STEPS) // STEPS) > setup.lasts:
        return None
    return mark._replace(since=_older(setup, mark.since), upto=mark.upto - STEPS)
