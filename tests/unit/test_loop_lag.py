"""What held the event loop is logged with the code that it is in."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import structlog

from flagsvc.loop_lag import LoopLag, code_of


def test_where_another_thread_is_can_be_read() -> None:
    reached, may_end = threading.Event(), threading.Event()

    def stand_still() -> None:
        reached.set()
        may_end.wait()

    thread = threading.Thread(target=stand_still)
    thread.start()
    try:
        assert reached.wait(60)
        assert thread.ident is not None
        code = code_of(thread.ident)
        assert any(line.endswith(" stand_still") and "test_loop_lag.py:" in line for line in code)
        assert code[-1].endswith(" wait"), "the innermost call is last"
    finally:
        may_end.set()
        thread.join()
    assert code_of(thread.ident) == [], "it has ended"


def held(until: Any) -> None:
    while not until():
        time.sleep(0.01)


async def test_a_loop_that_is_held_is_logged_once_with_its_code() -> None:
    with structlog.testing.capture_logs() as logs:
        running = asyncio.create_task(LoopLag(lambda _: None, log_over_s=0.1).run())
        await asyncio.sleep(0.05)
        held(lambda: logs)
        ends = time.monotonic() + 0.1
        held(lambda: time.monotonic() > ends)
        running.cancel()
        await asyncio.wait([running])
    [logged] = logs
    assert logged["event"] == "loop_held"
    assert logged["for_ms"] >= 100
    assert any(line.endswith(" held") for line in logged["code"])
