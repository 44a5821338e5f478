"""A tick: every remembered moment becomes one tick older."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from tests.model.state import NEVER, STEPS, Commit, Heartbeat, LeaseRecord, Replica, Setup, Shared, State


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
    """Return a moment one tick older; beyond the bound only the store's state at that moment is kept."""
    at -= STEPS
    oldest = -(setup.bound + 1) * STEPS
    if at >= oldest + STEPS:
        return at
    return oldest + at % STEPS if setup.exact and at > NEVER else NEVER


@lru_cache(100_000)
def _store(setup: Setup, store: tuple[Commit, ...]) -> tuple[Commit, ...]:
    return tuple(commit._replace(tick=max(commit.tick - STEPS, -STEPS * (setup.bound + 1))) for commit in store)


@lru_cache(100_000)
def _callers(setup: Setup, callers: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(caller._replace(as_of=_older(setup, caller.as_of)) for caller in callers)


@lru_cache(100_000)
def _replica(setup: Setup, r: Replica) -> Replica:
    return r._replace(
        held_as_of=_older(setup, r.held_as_of),
        as_of=_older(setup, r.as_of),
        heard_at=_older(setup, r.heard_at),
        checkpoint=_older(setup, r.checkpoint),
        stream_since=_older(setup, r.stream_since),
        poll=r.poll and r.poll._replace(asked=_older(setup, r.poll.asked)),
        renewal=r.renewal and r.renewal._replace(as_of=_older(setup, r.renewal.as_of)),
        record=_record(setup, r.record),
        inbox=tuple(_message(setup, m) for m in r.inbox),
    )


def _message(setup: Setup, message: Any) -> Any:
    if not isinstance(message, Heartbeat):
        return message
    as_of = message.as_of
    if "a heartbeat counts from when it was sent" not in setup.without:
        as_of = _older(setup, as_of)
    return message._replace(as_of=as_of, stream_since=_older(setup, message.stream_since))


@lru_cache(100_000)
def _shared(setup: Setup, shared: Shared) -> Shared:
    return shared._replace(as_of=_older(setup, shared.as_of), record=_record(setup, shared.record))


def _record(setup: Setup, record: LeaseRecord | None) -> LeaseRecord | None:
    """An expired record is gone."""
    if record is None or -((record.verified_until - STEPS) // STEPS) > setup.lease_ticks:
        return None
    return record._replace(
        verified_from=_older(setup, record.verified_from), verified_until=record.verified_until - STEPS
    )
