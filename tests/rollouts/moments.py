"""Rollouts for tests, and who has moved at a moment."""

from __future__ import annotations

import json
from typing import Any

from flagsvc.core.evaluation import Prepared, prepare
from flagsvc.core.model import Flag, Status
from flagsvc.core.rollouts import MAX_SHARE, Point, Rollout, to_json

START = 1_800_000_000
DAY = 86_400
PEOPLE = tuple(f"user-{number}" for number in range(1_000))
WEEK = (Point(START, 0), Point(START + 7 * DAY, MAX_SHARE))


def rollout(*points: Point, **fields: Any) -> Rollout:
    """Return a rollout of a plain switch from off to on."""
    return Rollout(from_variant="off", to_variant="on", points=points, **fields)


def flag(of: Rollout, **fields: Any) -> Flag:
    """Return an enabled plain switch with a rollout."""
    return Flag(**{"key": "new-checkout", "status": Status.ENABLED, "rollout": to_json(of), **fields})


def moved(of: Flag | Prepared, at: float) -> set[str]:
    """Return the people who get `on` at a moment."""
    prepared = prepare(of) if isinstance(of, Flag) else of
    return {key for key in PEOPLE if prepared.evaluate({"targetingKey": key}, at).variant == "on"}


def text(rule: Any) -> str:
    """Return a rule as JSON text."""
    return json.dumps(rule)
