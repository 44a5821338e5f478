"""Admission: a pool for each kind of work, caps per peer, and what is refused while the event loop is late."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from flagsvc import descriptors
from flagsvc.api.common.admission import Admission, Limits
from flagsvc.api.common.first_message import FirstMessages
from flagsvc.api.common.lateness import INTERVAL_S, TARGET_S, Lateness
from flagsvc.api.http.server import Connections
from flagsvc.core.errors import DeadlinePassed, InvalidRequest, Overloaded, Stopping
from flagsvc.health import HealthServicer


@pytest.fixture
def admission() -> Admission:
    return Admission(Limits(evaluations=2, writes=1, administration=1, streams=3, streams_per_peer=2))


def test_a_full_pool_refuses_its_own_kind_only(admission: Admission) -> None:
    with admission.writes:
        with pytest.raises(Overloaded, match="limit of 1 concurrent writes"), admission.writes:
            pass
        with admission.evaluations, admission.evaluations:
            with pytest.raises(Overloaded, match="limit of 2 concurrent evaluation calls"):
                admission.evaluations.check()
            with admission.ofrep, admission.administration, admission.streams("WatchFlags").of("a"):
                assert admission.in_progress == (5, 1)
    assert admission.in_progress == (0, 0)
    assert (admission.writes.refused, admission.evaluations.refused, admission.ofrep.refused) == (1, 1, 0)


def test_streams_of_one_kind_and_of_one_peer_leave_slots_to_others(admission: Admission) -> None:
    pool = admission.streams("EventStream")
    with pool.of("a"), pool.of("a"):
        with pytest.raises(Overloaded, match="a is at its limit of 2"), pool.of("a"):
            pass
        with pool.of("b"):
            with pytest.raises(Overloaded, match="limit of 3 concurrent EventStream streams"), pool.of("c"):
                pass
            with admission.streams("WatchFlags").of("a"):
                pass
    assert (pool.taken, dict(pool.peers)) == (0, {})


def test_a_late_loop_refuses_evaluations_and_nothing_else(admission: Admission) -> None:
    admission.gate.set(late=True)
    for pool in (admission.evaluations, admission.ofrep):
        with pytest.raises(Overloaded, match="more calls than it can answer in time"), pool:
            pass
    with admission.writes, admission.administration, admission.streams("WatchFlags").of("a"):
        pass
    admission.gate.set(late=False)
    with admission.evaluations:
        pass


def test_a_stop_refuses_everything_and_is_not_ended_by_a_loop_on_time(admission: Admission) -> None:
    admission.gate.set(stopping=True)
    admission.gate.set(late=False)
    for pool in admission.pools:
        with pytest.raises(Stopping), pool:
            pass


def test_a_burst_and_a_long_step_are_let_through_and_a_standing_queue_is_not() -> None:
    changes: list[bool] = []
    lateness, late, on_time = Lateness(changes.append), 2 * TARGET_S, TARGET_S / 2
    lateness.measured(3.0, now=10.0)
    lateness.measured(on_time, now=10.1)
    lateness.measured(late, now=11.0)
    lateness.measured(on_time, now=11.1)
    lateness.measured(late, now=11.1 + INTERVAL_S)
    assert changes == [], "late for a moment, on time in between"
    lateness.measured(late, now=11.1 + 2 * INTERVAL_S)
    assert changes == [True]
    lateness.measured(late, now=11.1 + 3 * INTERVAL_S)
    lateness.measured(on_time, now=11.2 + 3 * INTERVAL_S)
    assert changes == [True, False]


class Call:
    """A call's context whose message comes when `message` is set."""

    def __init__(self, remaining: float | None = None) -> None:
        self.message: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._remaining = remaining

    async def read(self) -> Any:
        return await self.message

    def time_remaining(self) -> float | None:
        return self._remaining


async def test_the_call_that_waits_longest_for_its_message_is_ended_when_there_are_too_many() -> None:
    messages = FirstMessages(limit=3, seconds=60)
    calls: list[Any] = [Call() for _ in range(5)]
    tasks = [asyncio.create_task(messages.of(call)) for call in calls]
    await asyncio.wait(tasks[:2])
    for task in tasks[:2]:
        assert isinstance(task.exception(), DeadlinePassed)
    assert (messages.waiting, messages.ended) == (3, 2)
    for call in calls[2:]:
        call.message.set_result("a message")
    assert await asyncio.gather(*tasks[2:]) == ["a message"] * 3
    assert messages.waiting == 0


async def test_a_call_without_a_message_is_ended_and_a_caller_that_leaves_is_no_such_call() -> None:
    messages = FirstMessages(limit=10, seconds=0.05)
    waits, leaves = (asyncio.create_task(messages.of(call)) for call in [Call(), Call()])  # type: ignore[arg-type]
    await asyncio.sleep(0)
    leaves.cancel()
    with pytest.raises(DeadlinePassed, match="did not arrive in time"):
        await waits
    assert leaves.cancelled()
    assert (messages.waiting, messages.ended) == (0, 1)


async def test_no_work_is_done_for_a_call_past_its_deadline_or_without_a_message() -> None:
    messages = FirstMessages(limit=10, seconds=60)
    late, empty, good = Call(remaining=0.0), Call(), Call(remaining=0.5)
    late.message.set_result("a message")
    empty.message.set_result(grpc.aio.EOF)
    good.message.set_result("a message")
    with pytest.raises(DeadlinePassed, match="deadline has passed"):
        await messages.of(late)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="one message"):
        await messages.of(empty)  # type: ignore[arg-type]
    assert await messages.of(good) == "a message"  # type: ignore[arg-type]


def test_connections_are_counted_in_all_and_for_a_peer() -> None:
    connections = Connections(limit=3, per_peer=2)
    assert [connections.admit(peer) for peer in ("a", "a", "a", "b")] == [True, True, False, True]
    assert (connections.open, connections.refused, connections.too_many) == (3, 1, False)
    assert connections.admit("c")
    assert connections.too_many
    connections.closed("a")
    assert connections.admit("a")


def test_descriptors_are_left_for_stores_and_probes() -> None:
    assert descriptors.connections_per_port(4_000, files=1_000_000, store_connections=50, ports=3) == 4_000
    each = descriptors.connections_per_port(4_000, files=1_024, store_connections=50, ports=3)
    assert each == (1_024 - 128 - 50) // 3
    assert descriptors.connections_per_port(4_000, files=64, store_connections=50, ports=3) == 16


async def test_a_watcher_of_health_that_does_not_read_delays_nobody() -> None:
    servicer = HealthServicer()
    stuck, reader = (servicer.Watch(health_pb2.HealthCheckRequest(), None) for _ in range(2))
    assert (await anext(stuck)).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    await anext(reader)
    for status in (health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING):
        servicer.set("", status)
        assert (await anext(reader)).status == status
    assert (await anext(stuck)).status == health_pb2.HealthCheckResponse.NOT_SERVING, "the newest status"
