"""The breaker: one failure opens it, only a probe closes it, and each cause of an outage is logged once."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from flagsvc.adapters.redis import breaker as breaker_module
from flagsvc.adapters.redis.breaker import MAX_REFUSED_S, MAX_UNREACHABLE_S, PROBE_EVERY_S, Breaker
from flagsvc.adapters.redis.causes import REFUSES, UNAVAILABLE, RedisCause

DOWN = RedisCause(UNAVAILABLE, "the connection is refused", "start it")
FULL = RedisCause(REFUSES, "Redis refuses: OOM", "raise maxmemory")


def test_a_failure_opens_it_and_a_probe_closes_it() -> None:
    breaker = Breaker()
    breaker.failed(DOWN)
    breaker.failed(DOWN)
    assert breaker.is_open
    assert breaker.cause == DOWN
    breaker.close()
    assert not breaker.is_open
    assert (breaker.cause, breaker.opened) == (None, 1)


def test_a_probe_that_was_wrong_is_not_believed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    breaker = Breaker()
    with capture_logs() as logs:
        for _ in range(50):
            breaker.failed(FULL)
            breaker.close()
            breaker.pause_s()
        assert breaker.cause == FULL, "status reports it although the breaker is closed just now"
        breaker.failed(DOWN)
        assert [(line["event"], line["cause"]) for line in logs] == [(REFUSES, FULL.text), (UNAVAILABLE, DOWN.text)]
        breaker.close()
        monkeypatch.setattr(breaker_module, "SOUND_S", 0.0)
        breaker.pause_s()
        assert (logs[-1]["event"], breaker.cause) == ("cache_available", None)
        breaker.failed(FULL)
        assert logs[-1]["event"] == REFUSES, "another outage is logged again"


@pytest.mark.parametrize(("cause", "most_s"), [(FULL, MAX_REFUSED_S), (DOWN, MAX_UNREACHABLE_S)])
def test_pauses_grow_up_to_a_bound(cause: RedisCause, most_s: float) -> None:
    breaker = Breaker()
    breaker.failed(cause)
    assert breaker.pause_s() == PROBE_EVERY_S
    pauses = []
    for _ in range(200):
        breaker.probe_failed(cause)
        pauses.append(breaker.pause_s())
    assert min(pauses) >= PROBE_EVERY_S
    assert most_s / 2 < max(pauses) <= most_s


def test_a_server_that_says_something_else_each_time_does_not_flood_the_log() -> None:
    breaker = Breaker()
    with capture_logs() as logs:
        for number in range(500):
            breaker.probe_failed(RedisCause(REFUSES, f"Redis refuses: {number}", ""))
    assert len(logs) == breaker_module.MAX_LOGGED
