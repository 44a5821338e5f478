"""Nine days of one rollout: begun, paused, resumed, edited, and rolled back; and what they must look like from outside.

`python -m tests.rollouts.week` prints the measurement of the engines in Python and Node.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import patch

from openfeature.contrib.tools.flagd.core import FlagdCore
from openfeature.evaluation_context import EvaluationContext

from flagsvc.core.evaluation import prepare
from flagsvc.core.flagd.writing import write
from flagsvc.core.model import Flag
from flagsvc.core.rollouts import Point, Rollout, continued, paused, resumed, rolled_back, share_at
from tests.providers import node_app
from tests.rollouts.moments import DAY, START, WEEK, flag, rollout

BACK = START + 7 * DAY
"""When the way back begins."""


def _versions() -> list[tuple[int, Rollout]]:
    first = rollout(*WEEK, linear=True)
    held = paused(first, START + 2 * DAY)
    again = resumed(held, START + 3 * DAY)
    steps = rollout(Point(START + 5 * DAY, 60_000), Point(START + 6 * DAY, 80_000))
    edited = continued(steps, again, START + 4 * DAY)
    back = rolled_back(edited, BACK, 2 * DAY)
    times = (0, START + 2 * DAY, START + 3 * DAY, START + 4 * DAY, BACK)
    return list(zip(times, (first, held, again, edited, back), strict=True))


VERSIONS = _versions()
"""Each version of the rollout, with the time from which on it is stored."""
MOMENTS = tuple(START + number * 9 * DAY // 20 for number in range(21))
"""The last one is when the way back has ended."""


def version_at(moment: int) -> Rollout:
    """Return the rollout that is stored at a moment."""
    return [of for time, of in VERSIONS if time <= moment][-1]


def shifted(of: Rollout, seconds: int) -> Rollout:
    """Return the rollout so many seconds later, for an engine whose clock cannot be set."""
    points = tuple(Point(point.time + seconds, point.share) for point in of.points)
    return replace(of, points=points, paused_at=None if of.paused_at is None else of.paused_at + seconds)


class Measured(NamedTuple):
    """What an engine made of the week: shares in percent, and how many people it moved where they must not go."""

    shares: list[float]
    moved_back: int
    """Before the way back."""
    joined_late: int
    """On the way back."""
    out_of_order: int
    """Who left on the way back before somebody who had come later."""
    farthest: float
    """Greatest difference between a share and what it should be."""


def judged(moved: Sequence[set[str]], people: int) -> Measured:
    """Judge who had the new variant at each moment."""
    forward = [number for number, moment in enumerate(MOMENTS) if moment < BACK]
    backward = range(forward[-1], len(MOMENTS))
    came = {key: number for number in reversed(forward) for key in moved[number]}
    left = {key: number + 1 for number in backward for key in moved[number]}
    order = sorted(left, key=lambda key: (came.get(key, len(MOMENTS)), -left[key]))
    wanted = [float(share_at(version_at(moment), moment)) * 100 for moment in MOMENTS]
    shares = [len(each) * 100 / people for each in moved]
    return Measured(
        [round(share, 1) for share in shares],
        sum(len(moved[number] - moved[number + 1]) for number in forward[:-1]),
        sum(len(moved[number + 1] - moved[number]) for number in backward[:-1]),
        sum(left[one] < left[other] and came.get(one, 0) < came.get(other, 0) for one in order for other in order),
        max(abs(one - other) for one, other in zip(shares, wanted, strict=True)),
    )


def ours(people: Sequence[str], bucketing: int) -> list[set[str]]:
    """Return who has moved at each moment by our engine."""
    found = []
    for moment in MOMENTS:
        prepared = prepare(replace(flag(version_at(moment)), bucketing=bucketing))
        found.append({key for key in people if prepared.evaluate({"targetingKey": key}, moment).variant == "on"})
    return found


def in_python(people: Sequence[str]) -> list[set[str]]:
    """Return the same by flagd's unmodified engine in Python, with its clock set."""
    core, now, found = FlagdCore(), SimpleNamespace(time=lambda: 0.0), []
    with patch.object(sys.modules["openfeature.contrib.tools.flagd.core.targeting.targeting"], "time", now):
        for moment in MOMENTS:
            made = flag(version_at(moment))
            core.set_flags(json.dumps(write([made])))
            now.time = lambda moment=moment: moment + 0.5  # type: ignore[misc]
            found.append({key for key in people if _value(core, made, key)})
    return found


def _value(core: FlagdCore, made: Flag, key: str) -> bool:
    return bool(core.resolve_boolean_value(made.key, False, EvaluationContext(key)).value)


def in_node(people: Sequence[str]) -> list[set[str]]:
    """Return the same by flagd's unmodified engine in Node, with its clock set."""
    node_app.install()
    contexts = [{"targetingKey": key} for key in people]
    runs: list[dict[str, Any]] = [
        {"document": write([flag(version_at(moment))]), "moments": [moment], "contexts": contexts} for moment in MOMENTS
    ]
    command = [str(Path(sys.executable).with_name("node")), "moments.mjs"]
    options: dict[str, Any] = {"cwd": node_app.FOLDER, "capture_output": True, "text": True, "timeout": 60}
    done = subprocess.run(command, input=json.dumps(runs), check=True, **options)
    found = [next(iter(run.values()))[0] for run in json.loads(done.stdout)]
    return [{key for key, variant in zip(people, row, strict=True) if variant == "on"} for row in found]


if __name__ == "__main__":
    PEOPLE = tuple(f"user-{number}" for number in range(2_000))
    engines = {"flagsvc, bucketing 2": ours(PEOPLE, 2), "Node, flagd-core": in_node(PEOPLE)}
    engines |= {"flagsvc, bucketing 3": ours(PEOPLE, 3), "Python, flagd-core": in_python(PEOPLE)}
    for engine, moved in engines.items():
        sys.stdout.write(f"{engine}: {judged(moved, len(PEOPLE))}\n")
    sys.stdout.write(f"equal: {engines['flagsvc, bucketing 2'] == engines['Node, flagd-core']}")
    sys.stdout.write(f", {engines['flagsvc, bucketing 3'] == engines['Python, flagd-core']}\n")
