"""The generic cell rate algorithm (GCRA), lending in portions. Pure: the caller says what time it is.

One number is kept: the moment at which all units lent so far will have been regained. Redis runs the same steps, as
the script in `redis_lender.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

MAX_LEVELS = 10.0
"""More than so many times the capacity cannot be on loan: the clock went back."""


@dataclass(frozen=True, slots=True)
class Limit:
    """`rate`: units regained per second; `capacity`: units that can be on loan at once."""

    rate: float
    capacity: float


class Wish(NamedTuple):
    """What a borrower reports and asks for, in units.

    `charged`: used without having been lent. `returned`: lent, and not needed. `wanted`: to be lent.
    """

    charged: float
    returned: float
    wanted: float


class Lent(NamedTuple):
    """`granted`: units lent now; `room`: units that could have been lent beyond."""

    granted: float
    room: float


def settle(due: float, now: float, limit: Limit, wish: Wish) -> tuple[float, Lent]:
    """Return the next `due` and what is lent. `due` and `now` are seconds of one clock; 0 where nothing was lent yet.

    What is charged counts even beyond the capacity; then nothing is lent until it is regained.
    """
    rate, capacity = limit.rate, limit.capacity
    level = min(max(due - now, 0.0) * rate, MAX_LEVELS * capacity)
    level = max(level + wish.charged - wish.returned, 0.0)
    granted = min(wish.wanted, max(capacity - level, 0.0))
    level += granted
    return now + level / rate, Lent(granted, max(capacity - level, 0.0))
