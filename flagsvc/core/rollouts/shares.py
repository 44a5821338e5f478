"""Which share stands at which moment, as the weights of a split that engines compute with whole numbers.

A split gives the new variant to those whose hash, as a fraction of all hashes, is below weight / total. Only that
fraction counts: pieces may have different totals, and nobody moves where one ends, as long as fractions only grow.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from .definition import MAX_SHARE, PARTS_OF_PERCENT, Rollout

MAX_TOTAL = (2**31 - 1) // 100
"""Largest total: an engine in use multiplies weights by 100 in 32 bits. All others allow 2^31 - 1."""
LEAST_TOTAL = 100_000
"""Totals are at least this large, so that a share is exact to a thousandth of a percent."""
MAX_PIECES = 200
MAX_STAIRS = 50
"""Pieces of a line that is too slow to be one: a thousandth of a percent takes more seconds than MAX_TOTAL allows."""
MIN_SECONDS_BETWEEN = 60
"""Seconds between two steps of a line that clients hear of."""


class Piece(NamedTuple):
    """From `start` on (None: always before) the weight is `weight + slope * (time - start)` of `total`."""

    start: int | None
    weight: int
    total: int
    slope: int = 0

    def at(self, time: int) -> Fraction:
        """Return the share as a fraction of everybody."""
        return Fraction(self.weight + self.slope * (time - (self.start or 0)), self.total)


def pieces_of(rollout: Rollout) -> list[Piece]:
    """Return the pieces of a rollout, in the order of time; the first has no start."""
    if rollout.paused_at is not None:
        standing = _share(_running(rollout), rollout.paused_at)
        return [Piece(None, standing.numerator, standing.denominator)]
    return _running(rollout)


def share_at(rollout: Rollout, time: float) -> Fraction:
    """Return the share at a time in seconds since 1970, as a fraction of everybody. Fractions of seconds are cut."""
    return _share(pieces_of(rollout), int(time))


def standing_share(rollout: Rollout, time: float) -> int:
    """Return the share at a time in parts of MAX_SHARE, rounded up: whoever is in it stays in it."""
    return math.ceil(share_at(rollout, time) * MAX_SHARE)


def next_step(rollout: Rollout, time: float) -> int | None:
    """Return when the share changes next, or in a line when it comes to its next point; None if it never does."""
    if rollout.paused_at is not None:
        return None
    shares = (rollout.start_share, *(share for _, share in rollout.points))
    later = [
        point.time
        for point, before in zip(rollout.points, shares, strict=False)
        if point.time > int(time) and (rollout.linear or point.share != before)
    ]
    return later[0] if later else None


def next_visible_step(rollout: Rollout, time: float) -> int | None:
    """Return the next moment at which clients that hold values should ask again; None if there is none.

    It is each step, and in a line each whole percent and each point, with at least a minute between two of a line.
    """
    now = int(time)
    if rollout.paused_at is not None:
        return None
    return min(_visible_steps(rollout, now), default=None)


def _visible_steps(rollout: Rollout, now: int) -> Iterator[int]:
    if (step := next_step(rollout, now)) is not None:
        yield step
    if not rollout.linear:
        return
    for (begin, low), (end, high) in pairwise(rollout.points):
        if begin <= now < end and low != high:
            seconds = max(MIN_SECONDS_BETWEEN, math.ceil(Fraction((end - begin) * PARTS_OF_PERCENT, abs(high - low))))
            yield begin + ((now - begin) // seconds + 1) * seconds


def _running(rollout: Rollout) -> list[Piece]:
    pieces = [_flat(None, rollout.start_share)]
    stairs = max(1, min(MAX_STAIRS, MAX_PIECES // len(rollout.points)))
    for (begin, low), (end, high) in pairwise(rollout.points):
        if rollout.linear and low != high:
            pieces += _line(begin, low, end - begin, high, stairs)
        else:
            pieces.append(_flat(begin, low))
    last = rollout.points[-1]
    return [*pieces, _flat(last.time, last.share)]


def _flat(start: int | None, share: int) -> Piece:
    divisor = math.gcd(share, MAX_SHARE)
    return Piece(start, share // divisor, MAX_SHARE // divisor)


def _line(begin: int, low: int, seconds: int, high: int, stairs: int) -> Iterator[Piece]:
    """Yield the piece of an even way, or stairs where it is so slow that its total would be too large.

    The total is rounded up, so that the way never leads past its end; the first weight of a way up so that nobody moves
    back where it begins.
    """
    rise = abs(high - low)
    slope = max(1, math.ceil(Fraction(LEAST_TOTAL * rise, seconds * MAX_SHARE)))
    total = math.ceil(Fraction(slope * seconds * MAX_SHARE, rise))
    if total > MAX_TOTAL:
        count = min(stairs, rise)
        yield from (_flat(begin + seconds * i // count, low + (high - low) * i // count) for i in range(count))
    elif low < high:
        yield Piece(begin, math.ceil(Fraction(low * total, MAX_SHARE)), total, slope)
    else:
        yield _flat(begin, low)  # whole for its first second, then rounded down: nobody moves forward either
        if seconds > 1:
            yield Piece(begin + 1, low * total // MAX_SHARE - slope, total, -slope)


def _share(pieces: list[Piece], time: int) -> Fraction:
    starts = [piece.start or 0 for piece in pieces[1:]]
    return pieces[bisect_right(starts, time)].at(time)
