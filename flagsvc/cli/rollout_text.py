"""Where the rollouts of listed flags are: the share now, and the next step, by this machine's clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from flagsvc.cli import times
from flagsvc.cli.terminal import Form, form, is_terminal
from flagsvc.core.evaluation import read_rollout
from flagsvc.core.model import Flag
from flagsvc.core.rollouts import BadRollout, Rollout, Standing, State, standing_at

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


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
