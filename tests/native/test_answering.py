"""The front's thread by itself: how long it works in one go, and which calls it refuses."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from pygrpc_native import EVENT_CALL, EVENT_CANCEL

from flagsvc.api.common.lateness import INTERVAL_S, TARGET_S
from flagsvc.call_times import Timer
from flagsvc.native import answering
from flagsvc.native.answering import BATCH, TURN_S, Answering, Method
from flagsvc.native.direct import EVALUATE
from flagsvc.native.loop_calls import Call, Ending

WORK_S = TURN_S / 10


class Clock:
    """Time that passes only while the thread works or waits."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


class Loop:
    """The event loop: `turns` says at which moments it went round because the thread waited for it."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self.turns, self.calls = clock, list[float](), list[Call | int]()
        self.given, self.max_calls = 0, 10**6

    @property
    def has_room(self) -> bool:
        return self.given < self.max_calls

    def hand_over(self, events: list[Call | int]) -> None:
        self.calls += events

    def call_soon(self, function: Any) -> None:
        self.turns.append(self._clock.now)
        function()


class Front:
    """The front: what has arrived, and how each call ended."""

    def __init__(self) -> None:
        self.arrived: list[Any] = []
        self.answered: list[int] = []
        self.failed: dict[int, Ending] = {}

    def arrive(self, *numbers: int, seconds: float | None = None, peer: str = "ipv4:10.0.0.1:1") -> None:
        self.arrived += [(EVENT_CALL, number, 0, b"", None, ((), peer, seconds)) for number in numbers]

    def recv_batch_details(self, max_events: int, timeout_ms: int | None = None) -> list[Any] | None:
        if not self.arrived and timeout_ms is None:
            return None  # nothing will ever come, as once the front is closed
        batch, self.arrived = self.arrived[:max_events], self.arrived[max_events:]
        return batch

    def answer(self, number: int, _: bytes) -> None:
        self.answered.append(number)

    def fail(self, number: int, ending: Ending) -> None:
        self.failed[number] = ending


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(answering, "time", clock)
    return clock


class Bench:
    """The thread's work with everything around it replaced. `seconds`: what the evaluation of a call takes."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.loop, self.front, self.timer = clock, Loop(clock), Front(), Timer((1.0,))
        self.seconds, self.known, self.peers = WORK_S, True, list[str]()
        self.stopping = False
        self.answering = Answering(
            self.front,
            [Method(EVALUATE, self.evaluate, self.timer)],
            self.loop,
            self.front,
            lambda: self.stopping,
        )

    def evaluate(self, _payload: bytes, _metadata: Any, peer: str) -> bytes | None:
        self.clock.now += self.seconds
        self.peers.append(peer)
        return b"answer" if self.known else None


@pytest.fixture
def bench(clock: Clock) -> Bench:
    return Bench(clock)


def test_it_waits_for_the_event_loop_after_a_millisecond_of_work(bench: Bench) -> None:
    bench.front.arrive(*range(100))
    bench.answering.run()
    assert bench.front.answered == [*range(100)]
    turns = [100.0, *bench.loop.turns]
    assert len(turns) > 9
    assert max(b - a for a, b in pairwise(turns)) < 1.5 * TURN_S


def test_short_work_adds_up_unless_it_waited_in_between(bench: Bench) -> None:
    """A caller that asks again and again, one call at a time, leaves the loop no gap either."""
    receive, pause_s = bench.front.recv_batch_details, 0.0
    left = iter(range(50))

    def one_by_one(max_events: int, timeout_ms: int | None = None) -> list[Any] | None:
        bench.clock.now += pause_s
        for number in left:
            bench.front.arrive(number)
            break
        return receive(max_events, timeout_ms)

    bench.answering._receive = one_by_one
    bench.answering.run()
    assert 4 <= len(bench.loop.turns) <= 5
    bench.loop.turns.clear()
    left, pause_s = iter(range(50)), 1.0
    bench.answering.run()
    assert not bench.loop.turns


def test_a_burst_is_answered_although_it_makes_calls_late(bench: Bench) -> None:
    bench.seconds = 0.8 * (TARGET_S + INTERVAL_S) / BATCH
    bench.front.arrive(*range(BATCH))
    bench.answering.run()
    assert bench.front.answered == [*range(BATCH)]


def test_while_calls_are_late_again_and_again_they_are_refused_and_later_ones_are_answered(bench: Bench) -> None:
    bench.seconds = (TARGET_S + INTERVAL_S) / (BATCH // 4)
    bench.front.arrive(*range(BATCH))
    bench.answering.run()
    answered = bench.front.answered
    assert answered == [*range(len(answered))]
    assert BATCH // 4 <= len(answered) <= BATCH // 4 + 3
    assert sorted(bench.front.failed) == [*range(len(answered), BATCH)]
    ending = bench.front.failed[BATCH - 1]
    assert ending.status.code.name == "RESOURCE_EXHAUSTED"
    assert "retry later" in ending.status.message
    assert bench.answering.refused == BATCH - len(answered)
    assert sum(bench.timer.read()["RESOURCE_EXHAUSTED"][:-1]) == bench.answering.refused
    bench.front.arrive(500)
    bench.answering.run()
    assert answered[-1] == 500


def test_a_call_past_its_deadline_is_not_worked_on(bench: Bench) -> None:
    bench.front.arrive(1, seconds=0.0)
    bench.front.arrive(*range(2, 14))
    bench.front.arrive(14, seconds=10 * WORK_S)
    bench.front.arrive(15, seconds=5.0)
    bench.answering.run()
    assert bench.front.answered == [*range(2, 14), 15]
    assert not bench.front.failed


def test_what_it_cannot_answer_goes_to_the_loop_with_the_time_that_is_left(bench: Bench) -> None:
    bench.known = False
    bench.front.arrive(1, 2, seconds=1.0)
    bench.front.arrived.append((EVENT_CANCEL, 1, 0, None, None, None))
    bench.answering.run()
    first, second, cancelled = bench.loop.calls
    assert isinstance(first, Call)
    assert isinstance(second, Call)
    assert (first.number, first.seconds) == (1, 1.0)
    assert second.seconds == pytest.approx(1.0 - WORK_S)
    assert cancelled == 1
    assert bench.loop.given == 2


def test_calls_beyond_the_room_of_the_loop_are_refused(bench: Bench) -> None:
    bench.known, bench.loop.max_calls = False, 3
    bench.front.arrive(*range(5))
    bench.answering.run()
    assert len(bench.loop.calls) == 3
    assert sorted(bench.front.failed) == [3, 4]


def test_while_the_server_stops_the_loop_decides(bench: Bench) -> None:
    bench.stopping = True
    bench.front.arrive(1)
    bench.answering.run()
    assert not bench.front.answered
    assert len(bench.loop.calls) == 1


def test_an_ipv4_caller_of_a_socket_for_both_has_its_ipv4_address(bench: Bench) -> None:
    bench.front.arrive(1, peer="ipv6:[::ffff:10.0.0.7]:5000")
    bench.front.arrive(2, peer="ipv6:[2001:db8::1]:5000")
    bench.answering.run()
    assert bench.peers == ["ipv4:10.0.0.7:5000", "ipv6:[2001:db8::1]:5000"]
