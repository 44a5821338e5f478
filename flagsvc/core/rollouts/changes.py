"""Edits of a rollout that is under way: each begins at the share that stands, so that nobody moves back."""

from __future__ import annotations

from dataclasses import replace

from ..errors import invalid
from .definition import FIELD, MAX_POINTS, MAX_SHARE, Point, Rollout
from .shares import share_at, standing_share


def continued(wanted: Rollout, before: Rollout | None, time: float) -> Rollout:
    """Return a rollout that takes the place of another at a time: it begins at the share that stands there.

    Raises InvalidRequest where some have moved already, and others would have to.
    """
    standing = 0 if before is None else standing_share(before, time)
    if before is None or wanted == before or standing == 0:
        return wanted
    if before.moves != wanted.moves:
        if standing < MAX_SHARE:
            _refuse(wanted, before, standing)
        return wanted
    wanted = replace(wanted, start_share=standing)
    if share_at(wanted, time) >= share_at(before, time):
        return wanted
    now = int(time)
    return replace(wanted, points=_within_limit([Point(now, standing), *(p for p in wanted.points if p.time > now)]))


def goes_on_alike(one: Rollout, other: Rollout, time: float) -> bool:
    """Whether two rollouts, whose pasts may differ, have the same share from a time on."""
    return _way_on(one, int(time)) == _way_on(other, int(time))


def _way_on(rollout: Rollout, now: int) -> tuple[object, ...]:
    later = [point for point in rollout.points if point.time > now]
    is_line = bool(later) and rollout.linear
    has_begun = is_line and rollout.points[0].time <= now  # until then its share stands, and jumps to the first point
    return rollout.moves, rollout.paused_at, standing_share(rollout, now), later, is_line, has_begun


def paused(rollout: Rollout, time: float) -> Rollout:
    """Return the rollout with the share of now, until it is resumed."""
    return rollout if rollout.paused_at is not None else replace(rollout, paused_at=int(time))


def resumed(rollout: Rollout, time: float) -> Rollout:
    """Return a paused rollout that goes on as it would have, later by the length of the pause."""
    if rollout.paused_at is None:
        return rollout
    later = int(time) - rollout.paused_at
    points = tuple(Point(point.time + later, point.share) for point in rollout.points)
    return replace(rollout, points=points, paused_at=None)


def rolled_back(rollout: Rollout, time: float, seconds: int | None = None) -> Rollout:
    """Return the rollout on its way back to nobody, evenly in so many seconds; None: as it came, mirrored in time.

    Whoever came last leaves first, either way.
    """
    now, standing = int(time), standing_share(rollout, time)
    back = replace(rollout, paused_at=None, start_share=standing)
    if standing == 0 or seconds == 0:
        return replace(back, points=(Point(now, 0),), start_share=0, linear=False)
    if seconds is not None:
        return replace(back, points=(Point(now, standing), Point(now + seconds, 0)), linear=True)
    reached_at = now if rollout.paused_at is None else rollout.paused_at
    way = _line_back(rollout, reached_at, now, standing) if rollout.linear else _steps_back(rollout, reached_at, now)
    return replace(back, points=_within_limit(_down_to_nobody(way, standing)))


def _line_back(rollout: Rollout, reached_at: int, now: int, standing: int) -> list[Point]:
    reached_at = min(reached_at, rollout.points[-1].time)  # where it has ended, it begins to shrink at once
    past = [point for point in rollout.points if point.time < reached_at]
    return [Point(now, standing), *(Point(now + reached_at - time, share) for time, share in reversed(past))]


def _steps_back(rollout: Rollout, reached_at: int, now: int) -> list[Point]:
    """Return the last step undone at once, and each earlier one as long after it as it was before it."""
    past = [point for point in rollout.points if point.time <= reached_at]
    shares = [rollout.start_share, *(share for _, share in past)]
    undone = reversed(list(zip(past, shares, strict=False)))
    return [Point(now + past[-1].time - point.time, before) for point, before in undone] or [Point(now, 0)]


def _down_to_nobody(way: list[Point], standing: int) -> list[Point]:
    """Return a way that only leads down from what stands, to nobody at its end."""
    lowest, down = standing, list[Point]()
    for time, share in way:
        lowest = min(lowest, share)
        down.append(Point(time, lowest))
    if lowest and len(down) > 1:
        down.pop()
    return [*down, Point(way[-1].time + (len(way) == 1), 0)] if lowest else down


def _within_limit(points: list[Point]) -> tuple[Point, ...]:
    """Return the points, of too many the first and the last ones."""
    return tuple(points if len(points) <= MAX_POINTS else [points[0], *points[1 - MAX_POINTS :]])


def _refuse(wanted: Rollout, before: Rollout, standing: int) -> None:
    names = ("from", "to", "bucketBy")
    name, new, old = next(
        (name, new, old) for name, new, old in zip(names, wanted.moves, before.moves, strict=True) if new != old
    )
    text = f"{old!r} while the rollout is under way ({standing / 1_000:g} % have moved): finish it, roll it back or"
    raise invalid(f"{FIELD}.{name}", new, f"{text} remove it first", "ROLLOUT_UNDER_WAY")
