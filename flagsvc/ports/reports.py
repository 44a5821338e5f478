"""What replicas report of themselves, to operators and to one another."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple


class Problem(NamedTuple):
    """Something configured that does not work now: a stable snake_case name, what is wrong, and what to do about it."""

    name: str
    detail: str
    cure: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    """The state of a replica, for operators. `view_age_s` None: it has no view yet.

    `lease_left_s`: how long it holds the cache lease from the time of this status, in seconds; 0 where it does not.
    """

    version: str
    started_at: datetime
    view_age_s: float | None
    staleness_bound_s: float
    ready: bool
    store_up: bool
    cache_up: bool
    subscription_up: bool
    change_feed: str
    change_feed_up: bool
    lease_left_s: float
    flags: int
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """A replica lives, and this is what its view proves. `number` counts its heartbeats.

    `revisions`: per set, the revision up to which it has applied every change. `age_s`: every change that the store
    had so many seconds ago is among them (infinite: unknown). `stream_age_s`: for so long it has missed no change of
    another program. `token_revision`: every change of tokens up to it is enforced; 0 where callers are not
    authenticated. `last_seen`: per replica, the number of its newest heartbeat, and how many seconds ago it arrived.
    """

    replica: str
    number: int
    revisions: Mapping[str, int]
    age_s: float = math.inf
    stream_age_s: float = 0.0
    last_seen: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    status: ReplicaStatus | None = None
    token_revision: int = 0
