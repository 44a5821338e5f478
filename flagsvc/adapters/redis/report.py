"""Reads the status that a replica's heartbeat carries. It is for people, so a garbled one is left out and nothing else.

A status becomes an answer of `GetStatus`: every number must fit its field there, and every text is of bounded length.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from flagsvc.core import json_values
from flagsvc.ports import Problem, ReplicaStatus

MAX_TEXT = 2_000
MAX_PROBLEMS = 100
_MAX_NUMBER = 1e12
_YEARS = range(1970, 2200)


def status_in(fields: Any) -> ReplicaStatus | None:
    """Read a replica's status; None for one of another version, or garbled, that cannot be understood."""
    try:
        started_at = datetime.fromisoformat(fields["started_at"]).astimezone(UTC)
        problems = tuple(Problem(*problem) for problem in fields.get("problems", ()))
        status = ReplicaStatus(**{**fields, "started_at": started_at, "problems": problems})
        return status if _is_sound(status) else None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None


def _is_sound(status: ReplicaStatus) -> bool:
    texts = (status.version, status.change_feed, *(text for problem in status.problems for text in problem))
    numbers = (status.staleness_bound_s, status.view_age_s or 0.0, status.flags, status.lease_left_s)
    switches = (status.ready, status.store_up, status.cache_up, status.subscription_up, status.change_feed_up)
    return (
        len(status.problems) <= MAX_PROBLEMS
        and status.started_at.year in _YEARS
        and all(isinstance(text, str) and len(text) <= MAX_TEXT and json_values.is_text(text) for text in texts)
        and type(status.flags) is int
        and all(type(number) in (int, float) and 0 <= number <= _MAX_NUMBER for number in numbers)
        and all(isinstance(switch, bool) for switch in switches)
    )
