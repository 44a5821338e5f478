"""The breaker: one failure opens it, and only a probe closes it."""

from __future__ import annotations

from flagsvc.adapters.redis.breaker import Breaker


def test_a_failure_opens_it_and_late_successes_do_not_close_it() -> None:
    breaker = Breaker()
    assert breaker.failed()
    assert not breaker.failed(), "only the failure that opens it is reported"
    breaker.succeeded()
    assert breaker.is_open
    breaker.close()
    assert not breaker.is_open
    assert breaker.opened == 1


def test_only_failures_in_a_row_count() -> None:
    breaker = Breaker(failures=2)
    assert not breaker.failed()
    breaker.succeeded()
    assert not breaker.failed()
    assert breaker.failed()
