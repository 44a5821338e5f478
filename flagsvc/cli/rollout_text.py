"""Rollouts in words: how far one is by this machine's clock, and what one is in a change."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from flagsvc.cli import times
from flagsvc.cli.terminal import Form, form, is_terminal
from flagsvc.core.evaluation import read_rollout
from flagsvc.core.model import Flag
from flagsvc.core.rollouts import (
    DEFAULT_BUCKET_BY,
    BadRollout,
    Rollout,
    Standing,
    State,
    percent,
    rollout_of,
    standing_at,
)

FIELD = "rolloutNow"


def rollout_now(flag: Flag) -> dict[str, Any]:
    """Return the field of a flag that has a rollout, for programs in JSON, for people as text; none without one."""
    if flag.rollout is None:
        return {}
    try:
        rollout = read_rollout(flag)
    except BadRollout:
        return {FIELD: "malformed"}
    standing = standing_at(rollout, time.time())
    return {FIELD: _json(standing) if form() in (Form.JSON, Form.YAML) else _text(rollout, standing)}


def words(value: Any) -> str:
    """Return a rollout, as documents have it, in words; empty for what is none."""
    try:
        rollout = rollout_of(value, None)
    except BadRollout:
        return ""
    by = f", by {rollout.bucket_by}" if rollout.bucket_by != DEFAULT_BUCKET_BY else ""
    if rollout.paused_at is not None:
        share = standing_at(rollout, rollout.paused_at).share
        return f"{rollout.to_variant} paused at {share:g} %, {_short(rollout.paused_at)}{by}"
    found, day = list[str](), ""
    for at, share in rollout.points:
        moment = _short(at)
        shown = moment.removeprefix(day)
        found.append(f"{percent(share):g} % at {shown}")
        day = moment[: len("2026-12-01 ")]
    way = " evenly" if rollout.linear else ""
    return f"{rollout.to_variant}{way} {', '.join(found)}{by}"


def _json(standing: Standing) -> dict[str, Any]:
    found: dict[str, Any] = {"state": standing.state.value, "share": standing.share}
    if standing.next_time is not None:
        found |= {"nextShare": standing.next_share, "nextTime": _moment(standing.next_time)}
    return found


def _text(rollout: Rollout, standing: Standing) -> str:
    text = f"{standing.share:g} % {rollout.to_variant}"
    if standing.state is State.PAUSED:
        return f"{text}, paused"
    if standing.next_time is None:
        return text
    at = _moment(standing.next_time)
    return f"{text}, {standing.next_share:g} % {times.relative(at) if is_terminal() else times.iso(at)}"


def _short(seconds: int) -> str:
    """Return a time such as `2026-11-30 11:03Z`; with its seconds where it has some."""
    return times.absolute(_moment(seconds)).replace(":00Z", "Z")


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
