"""The schedule is a pure function of its seed, and has what a run needs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.calm import Calm
from tests.faults.record import FaultWindow
from tests.faults.schedule import (
    LINKS,
    MAX_AT_ONCE,
    ON_LINKS,
    ON_MONGODS,
    ON_REDIS,
    ON_REPLICAS,
    WARM_UP_S,
    Fault,
    schedule,
)

SEEDS = range(20)


def windows(faults: list[Fault]) -> list[FaultWindow]:
    return [FaultWindow(f.number, f.kind, f.where, f.begin, f.begin + f.seconds) for f in faults]


def test_the_same_seed_gives_the_same_faults_in_another_process_too() -> None:
    program = (
        "import json; from tests.faults.schedule import schedule; print(json.dumps([repr(f) for f in schedule(7, 90)]))"
    )
    root = Path(__file__).parents[2]
    text = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True).stdout
    assert json.loads(text) == [repr(fault) for fault in schedule(7, 90)]
    assert schedule(8, 90) != schedule(7, 90)


@pytest.mark.parametrize("mongods", [1, 3])
def test_ten_minutes_have_five_hundred_faults_of_every_kind(mongods: int) -> None:
    for seed in SEEDS:
        faults = schedule(seed, 600, mongods=mongods)
        assert len(faults) >= 500
        kinds = Counter(fault.name for fault in faults)
        wanted = {f"{link} {kind.name}" for link in LINKS for kind in ON_LINKS}
        wanted |= {f"replica {kind.name}" for kind in ON_REPLICAS} | {f"redis {kind.name}" for kind in ON_REDIS}
        wanted |= {f"mongod {kind.name}" for kind in ON_MONGODS if kind.members <= mongods}
        assert kinds.keys() == wanted


def test_a_minute_has_a_few_of_each_group() -> None:
    for seed in SEEDS:
        groups = Counter(fault.group for fault in schedule(seed, 60))
        assert sum(groups.values()) >= 30
        assert len(groups) >= 3


def test_faults_overlap_but_never_more_than_three() -> None:
    for seed in SEEDS:
        faults = schedule(seed, 600)
        at_once = [sum(f.begin <= at.begin < f.begin + f.seconds or f is at for f in faults) for at in faults]
        assert max(at_once) == MAX_AT_ONCE
        assert all(0.2 <= f.seconds <= 12 for f in faults if f.seconds)


def test_nothing_has_two_faults_at_once() -> None:
    for seed in SEEDS:
        until: dict[tuple[str, str, int], float] = {}
        for fault in schedule(seed, 600, mongods=3):
            what = (fault.group, fault.link, fault.target if fault.group in ("link", "replica") else 0)
            assert fault.begin >= until.get(what, 0.0)
            until[what] = fault.begin + fault.seconds


def test_there_are_calm_times_longer_than_the_staleness_bound_and_one_at_the_end() -> None:
    for seed in SEEDS:
        for seconds, least in ((60, 1), (600, 8)):
            faults = windows(schedule(seed, seconds))
            calm = Calm(faults)
            gaps = [calm.until(fault.end + 0.001) - fault.end for fault in faults]
            assert sum(gap > 7 for gap in gaps) >= least
            assert max(fault.end for fault in faults) <= seconds - 3.9
            assert min(fault.begin for fault in faults) >= WARM_UP_S


def test_calm_is_where_no_fault_is_active() -> None:
    calm = Calm([FaultWindow(0, "a", "x", 10, 20), FaultWindow(1, "b", "x", 15, 17), FaultWindow(2, "c", "x", 30, 31)])
    assert calm.between(1, 9.9)
    assert not calm.between(9, 11)
    assert not calm.between(18, 19)
    assert calm.between(20.5, 29)
    assert not calm.between(5, 40)
    assert calm.between(31.5, 1e9)
    assert [fault.kind for fault in calm.during(16, 18)] == ["a", "b"]
