"""The native transport: what it refuses, what becomes of calls that end early, and how it stops."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import flagsvc.server
from flagsvc.generated.flagd.evaluation.v1 import evaluation_pb2 as v1
from flagsvc.generated.flagd.evaluation.v1 import evaluation_pb2_grpc as v1_grpc
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.native.check import check
from flagsvc.native.direct import EVALUATE
from flagsvc.native.sending import READ_EVERY_S
from flagsvc.server import Server
from flagsvc.serving.reader import Reader
from flagsvc.settings import Settings
from flagsvc.urls import SettingsError
from tests.replicas import Client, replica, until, until_serving
from tests.unreading import Unreading

Served = tuple[Client, Server]
RETRYING = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.01s",
                    "maxBackoff": "0.01s",
                    "backoffMultiplier": 1,
                    "retryableStatusCodes": ["NOT_FOUND", "INVALID_ARGUMENT", "UNKNOWN", "INTERNAL"],
                },
            }
        ]
    }
)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db", cache_url="none", transport="native") as found:
        client, _ = found
        await until_serving(client)
        await client.create("a", status=types.FLAG_STATUS_ENABLED)
        yield found


def settings(**changed: Any) -> Settings:
    return Settings(**{"store_url": "sqlite:///flags.db", "cache_url": "none", "transport": "native", **changed})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"tls_cert": "cert.pem", "tls_key": "key.pem"}, "does not serve TLS"),
        ({"rate_limits": "enforce"}, "FLAGSVC_RATE_LIMITS"),
        ({"rate_limits": "shadow", "auth": "required", "anonymous": "grpc=evaluate@*"}, "FLAGSVC_ANONYMOUS"),
        ({"jwt_issuers_file": "issuers.json"}, "FLAGSVC_JWT_ISSUERS_FILE"),
    ],
)
def test_what_it_cannot_do_is_refused_with_words(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        check(settings(**changed))


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"flagsvc\[native\]"):
        check(settings())


def test_a_python_without_the_lock_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys._is_gil_enabled", lambda: False, raising=False)
    with pytest.raises(SettingsError, match="interpreter lock"):
        check(settings())


async def test_errors_of_flagds_calls_are_not_retried(served: Served) -> None:
    """gRPC's clients retry what fails without headers, and flagd's providers are set to retry nearly every status."""
    client, server = served
    async with grpc.aio.insecure_channel(client.target, [("grpc.service_config", RETRYING)]) as channel:
        for key in ("unknown", "a"):
            with pytest.raises(grpc.aio.AioRpcError):
                await v1_grpc.ServiceStub(channel).ResolveString(v1.ResolveStringRequest(flag_key=key), timeout=5)
    page = server._metrics.page().decode()
    for code in ("NOT_FOUND", "INVALID_ARGUMENT"):
        counted = f'flagsvc_call_seconds_count{{code="{code}",method="flagd.evaluation.v1.Service/ResolveString"}} 1.0'
        assert counted in page


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations that need more than memory wait for ever."""

    async def forever(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Reader, "evaluate", forever)


async def test_a_call_whose_client_leaves_ends(served: Served, waiting: None) -> None:
    client, server = served
    assert server._native is not None
    tasks = server._native.calls._tasks
    call = client.stub.EvaluateFlag(pb.EvaluateFlagRequest(flag_key="a", min_revision=10**6), timeout=20)
    await until(lambda: len(tasks) == 1)
    call.cancel()
    await until(lambda: not tasks)


async def test_a_deadline_is_kept_in_the_loop(served: Served, waiting: None) -> None:
    client, server = served
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.stub.EvaluateFlag(pb.EvaluateFlagRequest(flag_key="a", min_revision=10**6), timeout=0.05)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert server._native is not None
    await until(lambda: not server._native.calls._tasks)


async def test_more_calls_than_may_wait_are_refused(served: Served, waiting: None) -> None:
    client, server = served
    native = server._native
    assert native is not None
    native.calls.max_calls = 3
    request = pb.EvaluateFlagRequest(flag_key="a", min_revision=10**6)
    calls = [client.stub.EvaluateFlag(request, timeout=20) for _ in range(5)]
    await until(lambda: native._answering.refused == 2)
    codes = {await call.code() for call in calls if call.done()}
    assert codes <= {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert (await client.evaluate("a")).enabled, "what memory answers does not wait"
    for call in calls:
        call.cancel()
    await until(lambda: native.calls.given == native.calls.ended)


async def test_streams_and_writes_pass_through(served: Served) -> None:
    client, _ = served
    watch = client.stub.WatchFlags(pb.WatchFlagsRequest())
    first = await watch.read()
    assert [flag.key for flag in first.snapshot.flags] == ["a"]
    flag = await client.toggle("a", False)
    assert (await watch.read()).change.flag.revision == flag.revision
    assert not (await client.evaluate("a")).enabled
    watch.cancel()


async def test_an_event_stream_hears_of_a_set_that_was_selected(served: Served) -> None:
    """flagd's Node provider sends its selector with evaluations, but not with its event stream."""
    client, _ = served
    await client.create("b", flag_set="other", status=types.FLAG_STATUS_ENABLED)
    stub = v1_grpc.ServiceStub(client.channel)
    events = stub.EventStream(v1.EventStreamRequest())
    assert (await events.read()).type == "provider_ready"
    selector = (("flagd-selector", "flagSetId=other"),)
    found = await stub.ResolveBoolean(v1.ResolveBooleanRequest(flag_key="b"), metadata=selector)
    assert found.reason == "STATIC"
    while "b" not in (await asyncio.wait_for(events.read(), 5)).data["flags"]:
        pass  # keys that changed before the stream
    await client.toggle("b", False, flag_set="other")
    while "b" not in (await asyncio.wait_for(events.read(), 5)).data["flags"]:
        pass
    events.cancel()


async def test_unread_answers_are_counted_and_refused_when_they_are_too_many(tmp_path: Path) -> None:
    settings = {"store_url": f"sqlite:///{tmp_path}/flags.db", "cache_url": "none", "transport": "native"}
    fat, more = types.Value(string_value="x" * 65_000), {"team": types.Value(string_value="y" * 2_000)}
    async with replica(**settings, outstanding_bytes=1_000_000) as (client, server):
        await until_serving(client)
        fields: dict[str, Any] = {
            "variants": {"on": fat},
            "default_variant": "on",
            "metadata": more,
            "status": types.FLAG_STATUS_ENABLED,
        }
        for key in ("fat", "other"):
            await client.create(key, **fields)
        await client.create("switch", status=types.FLAG_STATUS_ENABLED)
        native = server._native
        assert native is not None
        direct = pb.EvaluateFlagRequest(flag_key="fat").SerializeToString()
        for path, request in ((EVALUATE, direct), ("/flagd.evaluation.v1.Service/ResolveAll", b"")):
            with Unreading(server.port) as one, Unreading(server.port) as two:
                for deaf in (one, two):
                    for _ in range(12):
                        deaf.call(path, request)
                        await asyncio.sleep(2 * READ_EVERY_S)  # what was given in between is read late
                frames = [*await asyncio.to_thread(one.frames, 0.2), *await asyncio.to_thread(two.frames, 0.2)]
                refused = [stream for kind, flags, stream, _ in frames if kind == 1 and flags & 1]  # they ended
                size = 67_000 if path == EVALUATE else 132_000
                assert abs(24 - 1_000_000 // size - len(refused)) <= 1
                assert 1_000_000 - 1.1 * size < native._unread.bytes <= 1_000_000
                assert (await client.evaluate("switch")).enabled
            await until(lambda: not native._unread.read() and not native._unread.bytes)
            assert len((await client.evaluate("fat")).value.string_value) == 65_000


async def test_a_request_that_raises_does_not_end_the_thread(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    client, server = served

    def raising(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("flagsvc.serving.second_reader.read", raising)
    assert (await client.evaluate("a")).enabled
    monkeypatch.undo()
    before = server.replica.reader.other_stats[0].near
    assert (await client.evaluate("a")).enabled
    assert server.replica.reader.other_stats[0].near == before + 1


async def test_a_thread_that_ends_stops_the_server(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    client, server = served
    raised: list[int] = []
    monkeypatch.setattr(flagsvc.server.signal, "raise_signal", raised.append)

    def failing(_: object) -> None:
        raise MemoryError

    assert server._native is not None
    monkeypatch.setattr(server._native._answering, "_work", failing)
    call = client.stub.EvaluateFlag(pb.EvaluateFlagRequest(flag_key="a"), timeout=5)
    await until(lambda: bool(raised))
    call.cancel()
    assert server.failed
    assert not server._health.ready


async def test_a_stop_answers_until_the_end_and_leaves_no_file(tmp_path: Path) -> None:
    ports = {"port": 0, "management_port": -1, "sync_port": -1, "ofrep_port": -1}
    patience = {"drain_s": 0.05, "grace_s": 1.0}
    server = Server(settings(store_url=f"sqlite:///{tmp_path}/flags.db", host="127.0.0.1", **ports, **patience))
    await server.start()
    client = Client(f"127.0.0.1:{server.port}")
    await until_serving(client)
    await client.create("a", status=types.FLAG_STATUS_ENABLED)
    assert server._native is not None
    socket = server._native.behind.address.path
    assert socket is not None
    folder = socket.parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    stopping, codes = asyncio.create_task(server.stop()), set[Any]()
    while not stopping.done():
        try:
            await client.evaluate("a")
            codes.add(grpc.StatusCode.OK)
        except grpc.aio.AioRpcError as error:
            codes.add(error.code())
    await stopping
    await client.channel.close()
    assert codes == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    assert not folder.exists()
