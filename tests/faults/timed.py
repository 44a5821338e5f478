"""What a record has of changes over time: planned changes, and answers of flags with a rollout under way."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(slots=True)
class Plan:
    """One attempt to plan a change. `number`: of its write, whose row in the history says it too."""

    number: int
    flag: str
    incarnation: int
    due: float
    """Seconds since 1970."""
    max_lateness_s: float
    start: float
    end: float = math.inf
    id: str = ""
    """Empty while no answer has come."""

    def __str__(self) -> str:
        return f"plan {self.number} of {self.flag}"


@dataclass(slots=True)
class Moved:
    """An evaluation of a flag with a rollout. `moved`: whether the caller gets the new variant."""

    flag: str
    user: int
    incarnation: int
    start: float
    end: float
    revision: int
    moved: bool
