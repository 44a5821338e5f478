"""The rollout of a flag: as data, as the JSON that a flag's document has, and what is wrong in that.

Shares are whole numbers of MAX_SHARE parts, which is a thousandth of a percent each; in JSON they are percent. Times
are whole seconds since 1970, as `$flagd.timestamp` counts; in JSON they are texts such as `2026-12-01T09:00:00Z`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, NamedTuple

from ..errors import Violation, short_repr
from ..json_values import is_text, kind
from ..model import JsonValue

MAX_SHARE = 100_000
"""The share of everybody."""
PARTS_OF_PERCENT = MAX_SHARE // 100
MAX_POINTS = 50
MAX_NAME = 255
DEFAULT_BUCKET_BY = "targetingKey"
FIELD = "flag.rollout"
_NAMES = ("from", "to", "points", "linear", "bucketBy", "startShare", "pausedAt")
_SHARE = "a percentage from 0 to 100 with at most three decimals"
_TIME = "a time in whole seconds from 2000 to 2199, such as 2026-12-01T09:00:00Z"
_YEARS = range(2000, 2200)


class Point(NamedTuple):
    """At `time` the share is `share`."""

    time: int
    share: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """Callers move from one variant to another. `linear`: between two points the share moves evenly, else in steps.

    `start_share`: the share before the first point. `bucket_by`: the context field that says who is first. `paused_at`:
    the share of that moment stands.
    """

    from_variant: str
    to_variant: str
    points: tuple[Point, ...]
    linear: bool = False
    bucket_by: str = DEFAULT_BUCKET_BY
    start_share: int = 0
    paused_at: int | None = None

    @property
    def moves(self) -> tuple[str, str, str]:
        """Who moves where: rollouts that differ in it have nothing in common."""
        return self.from_variant, self.to_variant, self.bucket_by


class BadRollout(Exception):
    """The JSON is no rollout. `found` lists all that is wrong."""

    def __init__(self, found: list[Violation]) -> None:
        super().__init__("; ".join(map(str, found)))
        self.found = found


def rollout_of(value: JsonValue, variants: Mapping[str, JsonValue] | None) -> Rollout:
    """Read a rollout of a flag with these variants, or with any (None). Raises BadRollout."""
    if found := violations(value, variants):
        raise BadRollout(found)
    paused_at = value.get("pausedAt")
    return Rollout(
        from_variant=value["from"],
        to_variant=value["to"],
        points=tuple(Point(_seconds(each["time"]) or 0, _parts(each["share"]) or 0) for each in value["points"]),
        linear=value.get("linear", False),
        bucket_by=value.get("bucketBy", DEFAULT_BUCKET_BY),
        start_share=_parts(value.get("startShare", 0)) or 0,
        paused_at=None if paused_at is None else _seconds(paused_at),
    )


def to_json(rollout: Rollout) -> dict[str, Any]:
    """Write a rollout as it is stored: what is as usual is left out."""
    written: dict[str, Any] = {
        "from": rollout.from_variant,
        "to": rollout.to_variant,
        "points": [{"time": time_text(time), "share": percent(share)} for time, share in rollout.points],
    }
    if rollout.linear:
        written["linear"] = True
    if rollout.bucket_by != DEFAULT_BUCKET_BY:
        written["bucketBy"] = rollout.bucket_by
    if rollout.start_share:
        written["startShare"] = percent(rollout.start_share)
    if rollout.paused_at is not None:
        written["pausedAt"] = time_text(rollout.paused_at)
    return written


def percent(share: float) -> int | float:
    """Return a share in percent: 12.5, and 12 as an integer."""
    exact = round(share / PARTS_OF_PERCENT, 3)
    return int(exact) if exact.is_integer() else exact


def time_text(time: int) -> str:
    """Return a time as text, such as 2026-12-01T09:00:00Z."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def violations(value: JsonValue, variants: Mapping[str, JsonValue] | None) -> list[Violation]:
    """Return all that is wrong in the rollout of a flag with these variants, or with any (None)."""
    if not isinstance(value, dict):
        return [Violation(FIELD, f"of type {kind(value)}", "an object with from, to and points")]
    return list(_violations(value, variants))


def _violations(value: dict[str, JsonValue], variants: Mapping[str, JsonValue] | None) -> Iterator[Violation]:
    for name in value:
        if name not in _NAMES:
            yield Violation(FIELD, f"given a field {short_repr(name)}", f"one with fields among {', '.join(_NAMES)}")
    known = f": {', '.join(list(variants)[:10])}" if variants is not None else ""
    for name in ("from", "to"):
        variant = value.get(name)
        if not isinstance(variant, str) or (variants is not None and variant not in variants):
            yield Violation(f"{FIELD}.{name}", short_repr(variant), f"one of the flag's variants{known}")
    if value.get("from") is not None and value.get("from") == value.get("to"):
        yield Violation(f"{FIELD}.to", short_repr(value["to"]), "another variant than flag.rollout.from")
    yield from _point_violations(value.get("points"))
    if not isinstance(value.get("linear", False), bool):
        yield Violation(f"{FIELD}.linear", short_repr(value["linear"]), "true or false")
    yield from _bucket_by_violations(value.get("bucketBy", DEFAULT_BUCKET_BY))
    if _parts(value.get("startShare", 0)) is None:
        yield Violation(f"{FIELD}.startShare", short_repr(value["startShare"]), _SHARE)
    if value.get("pausedAt") is not None and _seconds(value["pausedAt"]) is None:
        yield Violation(f"{FIELD}.pausedAt", short_repr(value["pausedAt"]), _TIME)


def _point_violations(points: JsonValue) -> Iterator[Violation]:
    field = f"{FIELD}.points"
    if not isinstance(points, list) or not 1 <= len(points) <= MAX_POINTS:
        found = f"a list of {len(points)}" if isinstance(points, list) else short_repr(points)
        yield Violation(field, found, f"a list of 1 to {MAX_POINTS} points, each with a time and a share")
        return
    times: list[int | None] = []
    for index, point in enumerate(points):
        if not isinstance(point, dict) or point.keys() != {"time", "share"}:
            yield Violation(f"{field}[{index}]", short_repr(point), "an object with a time and a share")
            continue
        times.append(_seconds(point["time"]))
        if times[-1] is None:
            yield Violation(f"{field}[{index}].time", short_repr(point["time"]), _TIME)
        if _parts(point["share"]) is None:
            yield Violation(f"{field}[{index}].share", short_repr(point["share"]), _SHARE)
    for index, (earlier, later) in enumerate(pairwise(times), 1):
        if earlier is not None and later is not None and later <= earlier:
            wanted = "later than the point before it"
            yield Violation(f"{field}[{index}].time", short_repr(time_text(later)), wanted)


def _bucket_by_violations(name: JsonValue) -> Iterator[Violation]:
    if (
        not isinstance(name, str)
        or not 1 <= len(name) <= MAX_NAME
        or "" in name.split(".")
        or name.split(".")[0] == "$flagd"
        or not is_text(name)
        or "\0" in name
    ):
        wanted = f"the name of a context field, or a path such as user.id, of 1 to {MAX_NAME} characters"
        yield Violation(f"{FIELD}.bucketBy", short_repr(name), wanted)


def _parts(share: JsonValue) -> int | None:
    """Return percent as a share; None for what is none, or has more than three decimals."""
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 100:  # noqa: PLR2004
        return None
    parts = round(share * PARTS_OF_PERCENT)
    return parts if abs(parts - share * PARTS_OF_PERCENT) < 1e-6 else None  # noqa: PLR2004  what floats make of 0.1


def _seconds(text: JsonValue) -> int | None:
    """Return a time in seconds since 1970; None for what is none, or has fractions of a second."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None or moment.microsecond or moment.year not in _YEARS:
        return None
    return int(moment.timestamp())
