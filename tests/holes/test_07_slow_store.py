"""Hole 7: MongoDB hangs at the moment of a change, and every call hangs or fails with it."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.holes.hang_scene import ALONE, FRESH, KEYS
from tests.holes.stage import NEAR, NONE

BOUND_S = 5.0
POLL_S = 2.0
"""The greatest age of a view when all is well: it may pass its bound earlier by this much."""
MORE_S = {NEAR: 1.0, ALONE: 1.0, NONE: 3.0}
"""Longer than before it hung, but less than one time-out of the store: 2 s. Without near cache, a call may wait for one
time-out until the replica notices that the store hangs."""


def p99(answers: list[list[Any]]) -> float:
    waits = sorted(took for _, took, *_ in answers)
    return float(waits[int(len(waits) * 0.99)])


async def test_07_a_store_that_hangs_at_a_change_fails_no_evaluation_and_holds_none_up(
    hanging: tuple[subprocess.Popen[bytes], Path],
) -> None:
    process, report = hanging
    assert await asyncio.to_thread(process.wait, 100) == 0, report.with_name("errors").read_text()
    result = json.loads(report.read_text())
    paused_at, resumed_at = result["paused_at"], result["resumed_at"]
    for kind, answers in result["answers"].items():
        hung = [answer for answer in answers if paused_at < answer[0] < resumed_at]
        before, during = p99([a for a in answers if a[0] < paused_at]), p99(hung)
        print(  # noqa: T201
            f"{kind}: {len(hung)} answers while it hung, from {sorted({answer[5] for answer in hung})},"
            f" p99 {during * 1e3:.0f} ms, before {before * 1e3:.0f} ms"
        )
        assert result["failures"][kind] == []
        assert {enabled for _, _, key, enabled, *_ in answers if key != KEYS[0]} == {True}
        assert {answer[4] for answer in hung if answer[0] - paused_at < BOUND_S - POLL_S - 1} <= FRESH
        late = {a[4] for a in hung if a[0] - paused_at > BOUND_S + 0.5 and a[0] + a[1] < resumed_at}
        assert late == {types.REASON_STALE}
        assert during < 4 * before + MORE_S[kind]
        assert result["last"][kind] is result["stored"]
