"""What one caller, one port or one kind of call takes, others do not miss. Counts, not times."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from flagsvc.generated.flagd.evaluation.v1 import evaluation_pb2 as flagd
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc
from flagsvc.server import Server
from tests.replicas import FLAGSVC, Client, Process, reason_of, replica, until, until_serving

EVALUATE = "/flagsvc.v1.FlagService/EvaluateFlag"
CODE = grpc.StatusCode


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/flags.db"


def opened(client: Client, method: str = EVALUATE) -> grpc.aio.StreamUnaryCall[Any, Any]:
    """A call whose headers are sent and whose message is not."""
    call: grpc.aio.StreamUnaryCall[Any, Any] = client.channel.stream_unary(method)()
    return call


async def code_of(call: Any) -> grpc.StatusCode:
    """Wait for a call's end."""
    code: grpc.StatusCode = await call.code()
    return code


@pytest.mark.grpcio
async def test_a_call_without_a_message_is_ended(store: str) -> None:
    async with replica(store_url=store, first_message_s=0.2) as (client, server):
        await until_serving(client)
        calls = [opened(client, method) for method in (EVALUATE, "/grpc.health.v1.Health/Check")]
        assert [await code_of(call) for call in calls] == [CODE.DEADLINE_EXCEEDED] * 2
        assert (server.services.first_messages.waiting, server.services.first_messages.ended) == (0, 2)


@pytest.mark.grpcio
async def test_of_too_many_calls_without_a_message_the_oldest_are_ended(store: str) -> None:
    async with replica(store_url=store, max_pending_calls=10, first_message_s=300) as (client, server):
        await until_serving(client)
        messages, calls = server.services.first_messages, []
        for number in range(1, 31):
            calls.append(opened(client))
            await until(lambda number=number: messages.waiting + messages.ended == number)  # type: ignore[misc]
        assert [await code_of(call) for call in calls[:20]] == [CODE.DEADLINE_EXCEEDED] * 20
        assert (await client.evaluate("a")).flag_key == "a"
        assert messages.waiting <= 10
        for call in calls:
            call.cancel()
        await until(lambda: server.services.first_messages.waiting == 0)


@pytest.mark.grpcio
async def test_a_connection_has_a_limit_of_calls_and_others_have_theirs(store: str) -> None:
    async with replica(store_url=store, max_calls_per_connection=4) as (client, server):
        other = Client(f"127.0.0.1:{server.port}")
        await until_serving(other)
        calls = [opened(client) for _ in range(20)]
        await until(lambda: server.services.first_messages.waiting == 4)
        assert (await other.evaluate("a")).flag_key == "a"
        assert server.services.first_messages.waiting == 4
        for call in calls:
            call.cancel()
        await until(lambda: server.services.first_messages.waiting == 0)
        await other.channel.close()


@pytest.mark.grpcio
async def test_connections_beyond_the_limit_are_closed(store: str) -> None:
    limits = {"max_connections": 16, "max_connections_per_peer": 8}
    async with replica(store_url=store, sync_port=0, ofrep_port=0, **limits) as (client, server):
        await until_serving(client)
        with contextlib.ExitStack() as stack:
            for port, most in ((server.port, 7), (server.sync_port, 16), (server.ofrep_port, 8)):
                sockets = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(24)]
                await until(lambda opened=sockets, most=most: sum(map(closed, opened)) == 24 - most)  # type: ignore[misc]
            assert await client.serving()


async def test_probes_and_stores_have_descriptors_left_however_many_connect(store: str) -> None:
    few_files = ("sh", "-c", 'ulimit -n 256 && exec "$0" "$@"', str(FLAGSVC))
    with Process("--store", store, program=few_files) as server, contextlib.ExitStack() as stack:
        client = Client(server.address)
        await until_serving(client)
        for port in (server.port, server.sync_port, server.ofrep_port) * 150:
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        for path in ("healthz", "readyz"):
            async with httpx.AsyncClient(timeout=10) as http:
                assert (await http.get(f"http://127.0.0.1:{server.management_port}/{path}")).status_code == 200
        await client.create("a")
        assert (await client.evaluate("a")).flag_key == "a"
        await client.channel.close()


def closed(connection: socket.socket) -> bool:
    """Whether the server has closed a connection."""
    connection.setblocking(False)
    try:
        while data := connection.recv(65_536):
            del data
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@pytest.mark.grpcio
async def test_while_the_loop_is_late_evaluations_are_refused_unread_and_switches_work(store: str) -> None:
    async with replica(store_url=store, ofrep_port=0) as (client, server):
        await until_serving(client)
        await client.create("a")
        server._admission.gate.set(late=True)
        refused = opened(client)
        assert await code_of(refused) is CODE.RESOURCE_EXHAUSTED, "refused before there is a message"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.evaluate("a")
        assert (caught.value.code(), reason_of(caught.value)) == (CODE.RESOURCE_EXHAUSTED, "TOO_MANY_REQUESTS")
        assert (await client.toggle("a", True)).key == "a"
        assert await client.serving()
        await client.stub.GetStatus(pb.GetStatusRequest(), timeout=5)
        page = server._metrics.page().decode()
        assert 'flagsvc_refused_total{kind="evaluation calls"} 2.0' in page
        server._admission.gate.set(late=False)
        assert (await client.evaluate("a")).enabled


async def test_writers_that_wait_hold_no_slot_of_evaluations(store: str) -> None:
    async with replica(store_url=store, max_calls=1, max_writes=3) as (client, _):
        await until_serving(client)
        await client.create("a")
        with contextlib.closing(sqlite3.connect(store.removeprefix("sqlite:///"), isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")  # the toggles wait for this transaction to end
            toggles = [asyncio.ensure_future(client.toggle("a", True)) for _ in range(10)]
            await until(lambda: sum(toggle.done() for toggle in toggles) == 7)
            assert (await client.evaluate("a")).flag_key == "a"
            await client.stub.GetStatus(pb.GetStatusRequest(), timeout=5)
            other.execute("ROLLBACK")
        results = await asyncio.gather(*toggles, return_exceptions=True)
        codes = [r.code() for r in results if isinstance(r, grpc.aio.AioRpcError)]
        assert codes == [CODE.RESOURCE_EXHAUSTED] * 7


async def test_requests_without_their_body_hold_no_slot(store: str) -> None:
    async with replica(store_url=store, max_calls=20, ofrep_port=0) as (client, server):
        await until_serving(client)
        with contextlib.ExitStack() as stack:
            head = b"POST /ofrep/v1/evaluate/flags/a HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
            for _ in range(60):
                half = stack.enter_context(socket.create_connection(("127.0.0.1", server.ofrep_port)))
                half.sendall(head)
            assert server._http
            await until(lambda: server._http.connections.open == 60)  # type: ignore[union-attr]
            for _ in range(30):
                assert (await client.evaluate("a")).flag_key == "a"
            reader, writer = await asyncio.open_connection("127.0.0.1", server.ofrep_port)
            writer.write(head + b"{}        ")
            assert (await reader.readline()).startswith(b"HTTP/1.1 404"), "an answer: there is no such flag"
            writer.close()
            assert server._admission.in_progress == (0, 0)


async def test_idle_streams_of_one_kind_leave_the_others_theirs(store: str) -> None:
    async with replica(store_url=store, max_streams=3, max_streams_per_peer=2, ofrep_port=0) as (client, server):
        await until_serving(client)
        event_stream = client.channel.unary_stream(
            "/flagd.evaluation.v1.Service/EventStream",
            flagd.EventStreamRequest.SerializeToString,
            flagd.EventStreamResponse.FromString,
        )
        reflection = reflection_pb2_grpc.ServerReflectionStub(client.channel).ServerReflectionInfo
        kinds: list[Any] = [
            lambda: event_stream(flagd.EventStreamRequest()),
            lambda: client.health.Watch(health_pb2.HealthCheckRequest()),
            lambda: client.stub.WatchFlags(pb.WatchFlagsRequest()),
            reflection,
        ]
        streams = []
        for kind in kinds:
            streams += [kind() for _ in range(2)]
            for stream in streams[-2:]:
                if kind is reflection:
                    await stream.write(reflection_pb2.ServerReflectionRequest(list_services=""))
                assert await stream.read()
            refused = kind()
            assert await code_of(refused) is CODE.RESOURCE_EXHAUSTED, "the third of this address"
        assert sum(pool.taken for pool in server._admission.pools) == 8
        assert server._admission.in_progress == (0, 4), "a stop does not wait for Watch of health and for reflection"
        assert await client.serving()
        assert (await client.evaluate("a")).flag_key == "a"
        for stream in streams:
            stream.cancel()
        await until(lambda: not any(pool.taken for pool in server._admission.pools))


@pytest.mark.grpcio
async def test_of_more_calls_than_may_wait_the_newest_are_cancelled_without_the_loop(store: str) -> None:
    """The loop runs no step from the first call to the last cancellation: gRPC alone refuses."""
    limits = {"max_pending_calls": 8, "max_calls_per_connection": 1_000}
    # The front would pass the calls on, which takes the loop.
    async with replica(store_url=store, http_on_grpc_port=False, **limits) as (client, server):
        await until_serving(client)
        with flood(server, 60) as calls:
            while sum(call.done() for call in calls) < 60 - 10 - 4:
                calls[-1].event.wait(0.01)
            codes = {call.code() for call in calls if call.done()}
            await until(lambda: all(call.done() for call in calls))
            answered = [number for number, call in enumerate(calls) if call.code() is CODE.OK]
        assert codes == {CODE.CANCELLED}
        assert len(answered) >= 8
        assert answered[:8] == list(range(8)), "the first that came are answered"


class Called:
    """One call of a synchronous client, whose threads work while the loop stands still."""

    def __init__(self, future: Any) -> None:
        self._future, self.event = future, threading.Event()
        future.add_done_callback(lambda _: self.event.set())

    def done(self) -> bool:
        return bool(self._future.done())

    def code(self) -> grpc.StatusCode:
        return self._future.code()  # type: ignore[no-any-return]


@contextlib.contextmanager
def flood(server: Server, count: int) -> Iterator[list[Called]]:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = pb_grpc.FlagServiceStub(channel)
        grpc.channel_ready_future(channel).result(10)
        yield [Called(stub.EvaluateFlag.future(pb.EvaluateFlagRequest(flag_key="a"), timeout=20)) for _ in range(count)]
