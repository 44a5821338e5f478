"""Real runs: one in which no promise may be broken, and runs with planted flaws, which must be caught."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import pytest

from tests.conftest import FIRST
from tests.faults.attempts import REFUSED
from tests.faults.checker import check
from tests.faults.cluster import SKEW_S, SKEWED
from tests.faults.planted import FLAWS
from tests.faults.record import Record
from tests.faults.schedule import schedule

pytestmark = pytest.mark.xdist_group(FIRST)

ROOT = Path(__file__).parents[2]
SECONDS = 24
SEED = os.environ.get("FAULTS_SEED", "1")
"""Of the run in `make test`: always the same, so that a failure can be reproduced."""
LOAD = 0.25
"""The share of the calls of `make faults`: the same faults, writes and judge at less than half of the CPU time."""
ALLOWED_S = 150
PLANTED_LOAD = 0.2
"""For runs with planted flaws, which show them again and again."""
PLANTED = ("late-fill,half-revoked,own-clock", pytest.param("unchecked,unlimited", marks=pytest.mark.long))
"""Flaws that are planted two at a time, to save time; FAULTS_ALL=1 plants all, one by one."""


def run(record: Path, seconds: float, *arguments: str, load: float = LOAD) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.faults", "--seconds", str(seconds), "--record", str(record)]
    command += ["--load", str(load), *arguments]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("FAULTS_")}
    return subprocess.run(
        command, cwd=ROOT, env=plain, capture_output=True, text=True, timeout=seconds + ALLOWED_S, check=False
    )


@pytest.mark.timeout(SECONDS + ALLOWED_S)
def test_faults_at_random_break_no_promise(tmp_path: Path) -> None:
    found = run(tmp_path / "record.npz", SECONDS, "--seed", SEED)
    assert found.returncode == 0, found.stdout[-8000:] + found.stderr[-4000:]
    record = Record.load(tmp_path / "record.npz")
    story = record.story
    assert f"FAULTS_SEED={story.seed}" in found.stdout
    assert len(record) > 333 * SECONDS
    assert len(story.faults) == len(schedule(story.seed, SECONDS)) >= 15
    assert sum(write.acknowledged for write in story.writes) > 36
    assert sum(write.done is True for write in story.foreign) > 18
    assert all(story.links.values()), story.links
    assert sum(bool(credential.ended_by) for credential in story.credentials) > 5
    assert Counter(attempt.outcome for attempt in story.attempts)[REFUSED] > 60
    assert any(stream.outcome == REFUSED for stream in story.streams)
    assert sum(row["state"] == "EXECUTED" for row in story.ending.schedules) > 2
    assert len({answer.moved for answer in story.moved}) == 2
    assert len(story.ending.definitions) > len(story.flags)
    assert story.greedy.refused > len(story.greedy.accepted) > story.greedy.rate * SECONDS / 2
    assert_one_clock_was_off(record)


def assert_one_clock_was_off(record: Record) -> None:
    """Moments in the history come from the writer's clock: those of one replica are an hour apart from the others'."""
    writes = {write.number: write for write in record.story.writes}
    ahead: dict[bool, list[float]] = {True: [], False: []}
    for row in record.story.ending.history:
        write = writes[int(re.findall(r"\d+", row["reason"])[0])]
        if write.kind == "plan":
            continue  # these have MongoDB's clock
        replica = record.story.incarnations[write.incarnation].replica
        at = datetime.fromisoformat(row["createdAt"]).timestamp()
        ahead[replica == SKEWED].append(at - write.start)
    assert min(ahead[True]) - max(ahead[False]) == pytest.approx(SKEW_S, abs=60)


@pytest.mark.timeout(ALLOWED_S)
@pytest.mark.parametrize("flaw", FLAWS if os.environ.get("FAULTS_ALL") else PLANTED)
def test_each_planted_flaw_is_caught(flaw: str, tmp_path: Path) -> None:
    planted = [FLAWS[name] for name in flaw.split(",")]
    faults, seconds = tmp_path / "faults.json", max(each.seconds for each in planted)
    faults.write_text(json.dumps([asdict(fault) for each in planted for fault in each.faults]))
    found = run(tmp_path / "record.npz", seconds, "--flaw", flaw, "--faults", str(faults), load=PLANTED_LOAD)
    assert found.returncode == 1, found.stdout[-8000:] + found.stderr[-4000:]
    verdict = check(Record.load(tmp_path / "record.npz"))
    for wanted in planted:
        found_of = [text for promise in wanted.breaks for text in verdict.explained.get(promise, ())]
        assert any(wanted.says in text for text in found_of), verdict.explained
