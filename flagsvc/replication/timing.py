"""Every time that must fit another one, derived from the staleness bound; the relations are checked at the start.

In a healthy system, with pauses of the process up to `PAUSE_SHARE` of the bound:

- the view is at most `poll_every + 2 stream_wait + gap_wait` old: a poll verifies it once the change stream has
  delivered everything up to the poll, which takes two waits of the stream at most;
- the cache lease runs from the moment as of which the view was verified, so it must outlast the view's age and one
  renewal;
- a replica without MongoDB takes its view's age from a peer's heartbeat, so one heartbeat comes on top.
"""

from __future__ import annotations

from dataclasses import dataclass

from flagsvc.view.near_cache import TOMBSTONE_S

PAUSE_SHARE = 0.3
"""The share of the staleness bound for which a healthy process may stand still (collections, loads, CPU throttling)."""
MIN_MONGODB_BOUND_S = 1.0
"""Least staleness bound with MongoDB: a pause of 0.3 s and round trips of 75 ms must fit into it."""
LOAD_TIMEOUT_S = 30.0
"""Longest that a full load of the store may take."""
SUBSCRIPTION_TIMEOUT_S = 3.0
"""Seconds without any message after which the channel of the shared cache counts as broken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds, all of one staleness bound."""

    staleness_bound_s: float
    poll_every_s: float
    """Between two polls of the revision counters."""
    poll_retry_s: float
    """After a poll that failed."""
    stream_wait_s: float
    """How long a reply of the change stream waits for something to report."""
    prove_after_s: float
    """After so long without a poll, the change stream reads linearizably by itself."""
    silent_stream_s: float
    """After so long without a checkpoint of the stream, the whole store is read instead."""
    gap_wait_s: float
    """How long a missing revision may be in transit before it counts as lost."""
    renew_every_s: float
    """Between two renewals of the cache lease."""
    lease_s: float
    """How long the cache lease lasts from the moment as of which the holder's view is verified."""
    heartbeat_every_s: float
    heartbeat_expiry_s: float
    """How long a stored heartbeat counts its sender among the live replicas."""
    peer_timeout_s: float
    """A replica not heard for so long is not quoted in heartbeats any more."""

    @classmethod
    def of_bound(cls, bound_s: float) -> Timing:
        """Derive all times from the staleness bound in seconds. Raises ValueError where a relation does not hold."""
        heartbeat_every_s = min(1.0, bound_s / 5)
        poll_every_s = min(2.0, bound_s / 5)
        timing = cls(
            staleness_bound_s=bound_s,
            poll_every_s=poll_every_s,
            poll_retry_s=min(0.5, bound_s / 10),
            stream_wait_s=min(0.25, bound_s / 20),
            prove_after_s=poll_every_s * 1.25,
            silent_stream_s=bound_s * 0.7,
            gap_wait_s=min(0.25, bound_s / 20),
            renew_every_s=min(1.0, bound_s / 10),
            lease_s=bound_s * 0.9,
            heartbeat_every_s=heartbeat_every_s,
            heartbeat_expiry_s=max(2 * bound_s, 3 * heartbeat_every_s),
            peer_timeout_s=max(10.0, bound_s),
        )
        timing.check()
        return timing

    @property
    def view_age_s(self) -> float:
        """The greatest age of a healthy replica's view, round trips and pauses aside."""
        return self.poll_every_s + 2 * self.stream_wait_s + self.gap_wait_s

    @property
    def max_acquire_age_s(self) -> float:
        """The greatest age of a view with which the cache lease may be acquired."""
        return self.lease_s / 2

    def check(self) -> None:
        """Raise ValueError for the first relation that does not hold."""
        bound, age, pause = self.staleness_bound_s, self.view_age_s, PAUSE_SHARE * self.staleness_bound_s
        relations = {
            "the view of a healthy replica is younger than the staleness bound": age + pause < bound,
            "a stream counts as silent only after a healthy one must have spoken": age + pause < self.silent_stream_s,
            "a healthy holder renews the cache lease before it runs out": age + self.renew_every_s + pause
            < self.lease_s,
            "the cache lease ends before the staleness bound": self.lease_s < bound,
            "a healthy view is young enough to acquire the lease": age < self.max_acquire_age_s,
            "a peer's heartbeat proves a view within the bound": age + self.heartbeat_every_s + pause < bound,
            "a heartbeat is kept until the next ones": 3 * self.heartbeat_every_s <= self.heartbeat_expiry_s,
            "heartbeats keep the subscription up": 2 * self.heartbeat_every_s < SUBSCRIPTION_TIMEOUT_S,
            "a peer is quoted for the staleness bound": bound <= self.peer_timeout_s,
            "a deletion is remembered longer than a load takes": LOAD_TIMEOUT_S < TOMBSTONE_S,
        }
        for relation, holds in relations.items():
            if not holds:
                raise ValueError(f"a staleness bound of {bound:g} s does not work: {relation} would not hold")
