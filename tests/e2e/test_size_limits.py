"""Large flags and clients that do not read: what they are answered, and what waits in memory for them."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pymongo
import pytest

from flagsvc.api.common import sending
from flagsvc.api.common.values import to_value
from flagsvc.api.flag_service import snapshots, watch
from flagsvc.core.documents import dumps
from flagsvc.core.model import Flag, Status
from flagsvc.generated.flagd.evaluation.v1 import evaluation_pb2 as v1
from flagsvc.generated.flagd.evaluation.v1 import evaluation_pb2_grpc as v1_grpc
from flagsvc.generated.flagd.sync.v1 import sync_pb2 as sync_pb
from flagsvc.generated.flagd.sync.v1 import sync_pb2_grpc as sync_grpc
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.replicas import Client, reason_of, replica, until, until_serving
from tests.unreading import Unreading

WATCH, SYNC = "/flagsvc.v1.FlagService/WatchFlags", "/flagd.sync.v1.FlagSyncService/SyncFlags"
RESOLVE_ALL = "/flagd.evaluation.v1.Service/ResolveAll"
HUGE, FAT = "x" * 5_000_000, "x" * 60_000
ENABLED = types.FLAG_STATUS_ENABLED


async def refused(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


@pytest.fixture
async def huge(tmp_path: Path) -> AsyncIterator[Client]:
    """A replica whose store has a flag of 5 MB, which another program has written, and a small one."""
    path = tmp_path / "flags.db"
    async with replica(store_url=f"sqlite:///{path}") as (client, _):
        await client.create("small", status=ENABLED)
    flag = Flag(key="huge", status=Status.ENABLED, variants={"on": HUGE}, default_variant="on", revision=2)
    with sqlite3.connect(path) as db:
        db.execute("INSERT INTO flags VALUES ('default', 'huge', 2, ?)", (dumps(flag),))
        db.execute("UPDATE revisions SET revision = 2")
    async with replica(store_url=f"sqlite:///{path}") as (client, _):
        await until_serving(client)
        yield client


async def test_a_huge_stored_flag_answers_general_is_named_and_can_be_toggled_and_deleted(huge: Client) -> None:
    await _check_huge(huge)


async def test_a_huge_flag_in_mongodb_too(mongo_database_url: str) -> None:
    async with replica(store_url=mongo_database_url) as (client, server):
        await until_serving(client)
        with pymongo.MongoClient[dict[str, Any]](mongo_database_url) as mongo:
            document = {"key": "huge", "status": "ENABLED", "variants": {"on": HUGE}, "defaultVariant": "on"}
            mongo.get_default_database()["feature_flags"].insert_one(document)
        await until(lambda: bool(server.replica.near.too_large))
        await _check_huge(client)


async def _check_huge(client: Client) -> None:
    found = await client.evaluate("huge")
    assert (found.error_code, found.error_message) == (
        types.ERROR_CODE_GENERAL,
        "The stored flag is over 4194304 bytes",
    )
    [status] = (await client.stub.GetStatus(pb.GetStatusRequest())).replicas
    details = {problem.name: problem.detail for problem in status.problems}
    assert "'huge' of flag set 'default'" in details["flag_too_large"], details
    error = await refused(client.stub.GetFlag(pb.GetFlagRequest(flag_key="huge")))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "ANSWER_TOO_LARGE")
    for enabled in (False, True):
        request = pb.ToggleFlagRequest(flag_key="huge", enabled=enabled)
        toggled = await _toggled(client, request)
        assert (await client.evaluate("huge")).revision == toggled
    history = await client.stub.ListFlagHistory(pb.ListFlagHistoryRequest(flag_key="huge"))
    assert [entry.action for entry in history.entries][:2] == ["ENABLED", "DISABLED"]
    await client.stub.DeleteFlag(pb.DeleteFlagRequest(flag_key="huge"))
    assert (await client.evaluate("huge")).error_code == types.ERROR_CODE_FLAG_NOT_FOUND
    [status] = (await client.stub.GetStatus(pb.GetStatusRequest())).replicas
    assert "flag_too_large" not in {problem.name for problem in status.problems}


async def _toggled(client: Client, request: pb.ToggleFlagRequest) -> int:
    """Toggle, and return the revision."""
    return (await client.stub.ToggleFlag(request)).spread.revision


async def test_answers_over_4_mb_are_refused_and_say_how_to_ask_for_less(tmp_path: Path) -> None:
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db") as (client, server):
        for number in range(80):
            await client.create(f"k{number}", status=ENABLED, variants={"on": to_value(FAT)}, default_variant="on")
        for _ in range(2):
            await client.stub.UpdateFlag(_update("k0"))
        keys = [f"k{number}" for number in range(80)]
        stub, all_of = client.stub, v1_grpc.ServiceStub(client.channel)
        expected = {
            stub.BatchEvaluateFlags(pb.BatchEvaluateFlagsRequest(flag_keys=keys)): "send fewer flag_keys in one call",
            stub.BatchEvaluateFlags(pb.BatchEvaluateFlagsRequest(flag_keys=["k1"] * 1_000)): "send fewer flag_keys",
            stub.ListFlags(pb.ListFlagsRequest(page_size=1_000)): "send a smaller page_size",
            all_of.ResolveAll(v1.ResolveAllRequest()): "evaluate flags one by one, or split the flag set",
        }
        for call, advice in expected.items():
            error = await refused(call)
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert advice in (error.details() or "")
        assert len((await stub.ListFlags(pb.ListFlagsRequest(page_size=60))).flags) == 60
        options = [("grpc.max_receive_message_length", -1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options) as channel:
            whole = await sync_grpc.FlagSyncServiceStub(channel).FetchAllFlags(sync_pb.FetchAllFlagsRequest())
    assert len(whole.flag_configuration) > 80 * len(FAT)


def _update(key: str) -> pb.UpdateFlagRequest:
    request = pb.UpdateFlagRequest(flag=types.Flag(key=key, description="x"))
    request.update_mask.paths.append("description")
    return request


@pytest.mark.grpcio
async def test_a_snapshot_is_rendered_once_for_all_and_pages_put_together_are_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: list[str] = []
    pack = snapshots.flag_to_message

    def counted(flag: Flag) -> types.Flag:
        rendered.append(flag.key)
        return pack(flag)

    monkeypatch.setattr(snapshots, "flag_to_message", counted)
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db") as (client, server):
        for number in range(12):
            await client.create(f"k{number:02}", variants={"on": to_value(FAT)})
        with Unreading(server.port) as deaf:
            for _ in range(50):
                deaf.call(WATCH)
            await until(lambda: server.services.watches.active == 50 and server._outflow.outstanding > 0)
            assert len(rendered) == 12
            await client.toggle("k03", True)
            pages = client.stub.WatchFlags(pb.WatchFlagsRequest(paged_snapshots=True))
            received = [await pages.read()]
            while received[-1].snapshot.more:
                received.append(await pages.read())
            whole = await client.stub.WatchFlags(pb.WatchFlagsRequest()).read()
            assert len(received) == 3
            assert [f.key for page in received for f in page.snapshot.flags] == [f.key for f in whole.snapshot.flags]
            assert len(rendered) == 12, "the change follows the shared snapshot"
            assert (await pages.read()).change.flag_key == "k03"
            pages.cancel()
        await until(lambda: server.services.watches.active <= 1 and server._outflow.outstanding == 0)
        await client.toggle("k03", False)
        again = await client.stub.WatchFlags(pb.WatchFlagsRequest()).read()
        assert [flag.revision for flag in again.snapshot.flags if flag.key == "k03"] == [14]


@pytest.mark.grpcio
@pytest.mark.parametrize("path", [WATCH, SYNC])
async def test_what_waits_for_streams_is_bounded_and_the_others_get_theirs_when_it_is_taken(
    tmp_path: Path, path: str
) -> None:
    settings = {"store_url": f"sqlite:///{tmp_path}/flags.db", "outstanding_bytes": 4_000_000}
    async with replica(**settings) as (client, server):
        for number in range(12):
            await client.create(f"k{number:02}", status=ENABLED, variants={"on": to_value(FAT)}, default_variant="on")
        with Unreading(server.port) as one, Unreading(server.port) as two:
            streams = [(deaf, deaf.call(path)) for deaf in (one, two) for _ in range(20)]
            await until(lambda: server.services.watches.active + server.services.sync.active == 40)
            await until(lambda: server._outflow.outstanding > 2_000_000)
            assert server._outflow.outstanding <= 3_000_000
            assert (await client.evaluate("k00")).reason == types.REASON_STATIC
            for deaf, stream in streams:
                deaf.open_window(stream)
            received: dict[int, int] = {}

            def take() -> None:
                for deaf in (one, two):
                    for stream, size in deaf.data_of(0.05).items():
                        received[id(deaf) + stream] = received.get(id(deaf) + stream, 0) + size

            async with asyncio.timeout(20):
                while len(received) < 40 or min(received.values()) < 12 * len(FAT):
                    await asyncio.to_thread(take)
            await until(lambda: server._outflow.outstanding == 0)


@pytest.mark.grpcio
async def test_a_stream_that_takes_nothing_ends_with_words_and_an_idle_one_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "STALL_S", 0.3)
    monkeypatch.setattr(sending, "SLOWEST_BYTES_PER_S", 10_000_000)
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db") as (client, server):
        idle = client.stub.WatchFlags(pb.WatchFlagsRequest())
        await idle.read()
        for number in range(4):
            await client.create(f"k{number}", variants={"on": to_value(FAT)})
            await idle.read()
        with Unreading(server.port) as deaf:
            stream = deaf.call(WATCH)
            await until(lambda: server._outflow.stalled == 1)
            await until(lambda: server.services.watches.active == 1)
            assert server._outflow.outstanding > 4 * len(FAT), "gRPC still holds the message"
            await asyncio.to_thread(deaf.data_of, 0.1)
            deaf.open_window(stream)
            frames = await asyncio.to_thread(deaf.frames, 0.3)
            trailers = next(payload for kind, flags, number, payload in frames if (kind, number) == (1, stream))
            assert b"this stream did not take a message of 240" in trailers
            await until(lambda: server._outflow.outstanding == 0)
        await client.toggle("k0", True)
        assert (await idle.read()).change.flag_key == "k0"
        idle.cancel()


@pytest.mark.grpcio
async def test_unread_answers_are_counted_and_refused_when_they_are_too_many(tmp_path: Path) -> None:
    settings = {"store_url": f"sqlite:///{tmp_path}/flags.db", "outstanding_bytes": 4_000_000}
    async with replica(**settings) as (client, server):
        for number in range(12):
            await client.create(f"k{number:02}", status=ENABLED, variants={"on": to_value(FAT)}, default_variant="on")
        with Unreading(server.port) as one, Unreading(server.port) as two:
            for deaf in (one, two):
                for _ in range(10):
                    deaf.call(RESOLVE_ALL)
            frames = [*await asyncio.to_thread(one.frames, 0.5), *await asyncio.to_thread(two.frames, 0.5)]
            refusals = [payload for kind, _, _, payload in frames if kind == 1 and b"do not read" in payload]
            assert 2_000_000 < server._outflow.outstanding <= 3_000_000
            assert len(refusals) == 20 - server._outflow.outstanding // (12 * len(FAT))
            assert (await client.evaluate("k00")).reason == types.REASON_STATIC
        await until(lambda: server._outflow.outstanding == 0)


async def test_ofreps_answers_are_counted_until_they_are_taken(tmp_path: Path) -> None:
    settings = {"store_url": f"sqlite:///{tmp_path}/flags.db", "outstanding_bytes": 40_000_000, "ofrep_port": 0}
    async with replica(**settings) as (client, server):
        for number in range(60):
            await client.create(f"k{number:02}", status=ENABLED, variants={"on": to_value(FAT)}, default_variant="on")
        request = b"POST /ofrep/v1/evaluate/flags HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
        loop, opened = asyncio.get_running_loop(), [socket.socket() for _ in range(12)]
        for each in opened:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)  # the system's buffers take little
            each.setblocking(False)
            await loop.sock_connect(each, ("127.0.0.1", server.ofrep_port))
            await loop.sock_sendall(each, request)
        heads = [await loop.sock_recv(each, 12) for each in opened]
        assert set(heads) == {b"HTTP/1.1 200", b"HTTP/1.1 429"}
        answered = heads.count(b"HTTP/1.1 200")
        assert server._outflow.outstanding >= answered * 60 * len(FAT)
        assert server._outflow.outstanding <= 30_000_000
        for each in opened:
            each.close()
        await until(lambda: server._outflow.outstanding == 0)


async def test_a_set_over_32_mb_is_refused_where_it_cannot_be_paged(tmp_path: Path) -> None:
    path = tmp_path / "flags.db"
    async with replica(store_url=f"sqlite:///{path}") as (client, _):
        await client.create("small", status=ENABLED)
    with sqlite3.connect(path) as db:
        for number in range(9):
            variants = {"on": "x" * 4_000_000}
            flag = Flag(key=f"k{number}", status=Status.ENABLED, variants=variants, default_variant="on", revision=2)
            db.execute("INSERT INTO flags VALUES ('default', ?, 2, ?)", (flag.key, dumps(flag)))
    async with replica(store_url=f"sqlite:///{path}", ofrep_port=0) as (client, server):
        await until_serving(client)
        sync = sync_grpc.FlagSyncServiceStub(client.channel)
        for call in (
            sync.FetchAllFlags(sync_pb.FetchAllFlagsRequest()),
            sync.SyncFlags(sync_pb.SyncFlagsRequest()).read(),
        ):
            error = await refused(call)
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert error.details() == "the answer would be over 33554432 bytes: split the flag set"
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.ofrep_port}") as http:
            answer = await http.post("/ofrep/v1/evaluate/flags", json={})
            assert (answer.status_code, answer.json()["errorDetails"]) == (500, error.details())
            one = await http.post("/ofrep/v1/evaluate/flags/k1", json={})
            assert len(one.json()["value"]) == 4_000_000


async def test_a_stream_that_has_sent_its_snapshot_holds_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "HEARTBEAT_S", 0.05)
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db") as (client, server):
        for number in range(12):
            await client.create(f"k{number:02}", variants={"on": to_value(FAT)})
        calls, tracing = [], 0
        for number in range(9):
            if number == 1:
                tracemalloc.start()
                tracing = tracemalloc.get_traced_memory()[0]
            call = client.stub.WatchFlags(pb.WatchFlagsRequest())
            assert len((await call.read()).snapshot.flags) == 12
            assert (await call.read()).HasField("heartbeat")  # gRPC itself holds a stream's last message
            calls.append(call)
        grown = tracemalloc.get_traced_memory()[0] - tracing
        tracemalloc.stop()
        assert server.services.watches.active == 9
        assert grown < 3 * 12 * len(FAT), "eight snapshots that were sent are gone"
        for call in calls:
            call.cancel()
