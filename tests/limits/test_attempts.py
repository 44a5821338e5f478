"""Failed credentials: what is recorded of them is bounded for each network, and memory for all."""

from __future__ import annotations

from itertools import pairwise

import pytest

from flagsvc.limits import attempts
from flagsvc.limits.attempts import FailedAttempts

BURST = int(attempts.RECORDED_BURST)


def test_the_first_failures_of_a_network_are_recorded_and_then_one_in_five_seconds() -> None:
    now = 100.0
    failed = FailedAttempts(lambda: now)
    assert [failed.note("ipv4:10.0.0.1:1") for _ in range(BURST + 2)] == [True] * BURST + [False] * 2
    assert failed.note("ipv4:10.0.0.2:1"), "another address"
    assert failed.note("ipv6:%5B2001:db8::1%5D:1")
    for number in range(2, BURST + 1):
        failed.note(f"ipv6:%5B2001:db8::{number}%5D:1")
    assert not failed.note("ipv6:%5B2001:db8::ffff%5D:1"), "addresses of one network"
    now += 1 / attempts.RECORDED_PER_S
    assert failed.note("ipv4:10.0.0.1:1")
    assert not failed.note("ipv4:10.0.0.1:1")
    assert (failed.total, failed.unrecorded) == (2 * BURST + 6, 4)


def test_many_networks_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "MAX_NETWORKS", 10)
    now = 0.0
    failed = FailedAttempts(lambda: now)
    for number in range(10 + BURST):
        assert failed.note(f"ipv4:10.0.0.{number}:1")
    assert not failed.note("ipv4:10.0.1.1:1"), "further networks are one"
    assert len(failed._recorded._due) == 11
    now += 1_000
    assert failed.note("ipv4:10.0.1.1:1")
    assert len(failed._recorded._due) == 1


def test_whoever_has_many_networks_does_not_make_each_failure_look_at_all_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attempts, "MAX_NETWORKS", 10)
    now = 0.0
    failed = FailedAttempts(lambda: now)
    held = []
    for number in range(40):
        failed.note(f"ipv6:%5B2001:db8:{number:x}::1%5D:1")
        held.append(failed._recorded._due)
        now += 0.1
    sweeps = sum(one is not other for one, other in pairwise(held))
    assert sweeps == 3, "one in a second, and the table is full after one"
