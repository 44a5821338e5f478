"""`flagsvc serve` as a process: start, ports, probes, and a stop under load that fails no accepted call."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2

from flagsvc.adapters.sqlite import SqliteStore
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.replicas import FLAGSVC, PROGRAM, Client, Process, reason_of, replica, until, until_serving


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/flags.db"


def fetch(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def test_a_stop_under_load_fails_no_accepted_call_and_ends_streams(store: str) -> None:
    with Process("--store", store, program=PROGRAM, FLAGSVC_DRAIN_S="0.5", FLAGSVC_GRACE_S="5") as server:
        client = Client(server.address)
        await until_serving(client)
        await client.create("a", status=types.FLAG_STATUS_ENABLED)
        streams = [client.stub.WatchFlags(pb.WatchFlagsRequest()) for _ in range(20)]
        for stream in streams:
            await stream.read()
        failed: list[str] = []
        answered, refused_at = 0, []

        async def caller() -> None:
            nonlocal answered
            while True:
                try:
                    await client.stub.EvaluateFlag(pb.EvaluateFlagRequest(flag_key="a"), timeout=5)
                    answered += 1
                except grpc.aio.AioRpcError as error:
                    # A call that reached no handler is refused as UNAVAILABLE, and clients retry it elsewhere.
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        failed.append(f"{error.code()} {error.details()}")
                    refused_at.append(time.monotonic())
                    return

        callers = [asyncio.create_task(caller()) for _ in range(32)]
        await asyncio.sleep(0.5)
        server.terminate()
        stopped_at = time.monotonic()
        await until_serving(client, serving=False, seconds=2)
        not_ready_at = time.monotonic()
        assert await client.serving("liveness")
        assert (await asyncio.to_thread(fetch, server.management_port, "/readyz"))[0] == 412
        assert (await asyncio.to_thread(fetch, server.management_port, "/healthz"))[0] == 200
        ends = [await asyncio.wait_for(stream.read(), 6) for stream in streams]
        assert all(end is grpc.aio.EOF for end in ends)
        assert {(await stream.code()) for stream in streams} == {grpc.StatusCode.OK}
        await asyncio.wait_for(asyncio.gather(*callers), 6)
        assert server.process
        assert await asyncio.to_thread(server.process.wait, 10) == 0
        assert time.monotonic() - stopped_at < 0.5 + 5
        assert failed == []
        assert answered > 100
        assert min(refused_at) > not_ready_at, "calls were refused before health reported not ready"
        await client.channel.close()


@pytest.mark.parametrize("option", ["--port", "--sync-port", "--ofrep-port", "--management-port"])
async def test_a_port_in_use_ends_the_start_with_address_and_reason(store: str, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Process("--store", store, "--log-format", "json", option, str(port)) as server:
            assert server.process
            _, errors = await asyncio.to_thread(server.process.communicate, timeout=60)
            assert server.process.returncode == 1
    failure = json.loads(errors.splitlines()[-1])
    assert failure["event"] == "start_failed"
    assert failure["error"] == f"cannot listen on 127.0.0.1:{port}: address already in use"
    assert "Traceback" not in errors


async def test_an_address_of_another_host_ends_the_start_with_the_reason(store: str) -> None:
    with Process("--store", store, "--log-format", "json", "--auth", "off", "--host", "203.0.113.1") as server:
        assert server.process
        _, errors = await asyncio.to_thread(server.process.communicate, timeout=60)
        assert server.process.returncode == 1
    failure = json.loads(errors.splitlines()[-1])
    assert failure["error"] == f"cannot listen on 203.0.113.1:{server.port}: cannot assign requested address"


async def test_start_to_serving(store: str) -> None:
    started = time.monotonic()
    with Process("--store", store, program=PROGRAM) as server:
        client = Client(server.address)
        await until_serving(client, seconds=10)
        print(f"start to SERVING: {time.monotonic() - started:.2f} s")  # noqa: T201
        await client.channel.close()


async def test_http_probes_and_metrics(store: str) -> None:
    with Process("--store", store) as server:
        client = Client(server.address)
        await until_serving(client)
        await client.create("a", status=types.FLAG_STATUS_ENABLED)
        await client.evaluate("a", context=types.EvaluationContext(targeting_key="secret-user"))
        await client.evaluate("nope")
        assert await asyncio.to_thread(fetch, server.management_port, "/healthz") == (200, "ok\n")
        assert (await asyncio.to_thread(fetch, server.management_port, "/readyz"))[0] == 200
        assert (await asyncio.to_thread(fetch, server.management_port, "/other"))[0] == 404
        page = (await asyncio.to_thread(fetch, server.management_port, "/metrics"))[1]
        assert 'flagsvc_evaluations_total{error_code="",reason="STATIC"} 1.0' in page
        assert 'flagsvc_evaluations_total{error_code="FLAG_NOT_FOUND",reason="ERROR"} 1.0' in page
        assert 'flagsvc_flag_evaluations_total{flag_key="a",flag_set="default"} 1.0' in page
        for name in ("lookups_total", "hit_ratio", "store_reads_total", "near_cache_entries", "call_seconds_bucket"):
            assert f"flagsvc_{name}" in page
        assert "secret-user" not in page
        assert "nope" not in page
        await client.channel.close()


async def test_reflection_knows_the_services_and_their_methods(store: str) -> None:
    with Process("--store", store) as server:
        client = Client(server.address)
        await until_serving(client)
        for version in ("v1", "v1alpha"):
            stream = client.channel.stream_stream(
                f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
                reflection_pb2.ServerReflectionRequest.SerializeToString,
                reflection_pb2.ServerReflectionResponse.FromString,
            )()
            await stream.write(reflection_pb2.ServerReflectionRequest(list_services=""))
            names = {service.name for service in (await stream.read()).list_services_response.service}
            assert {"flagsvc.v1.FlagService", "grpc.health.v1.Health"} <= names
            for symbol in (
                "flagd.evaluation.v1.Service.ResolveBoolean",
                "flagd.evaluation.v1.ResolveBooleanRequest",
                "flagsvc.v1.FlagService.EvaluateFlag",
                "grpc.reflection.v1.ServerReflection.ServerReflectionInfo",
                "google.rpc.BadRequest",
                "google.rpc.ErrorInfo",
            ):
                await stream.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol))
                files = (await stream.read()).file_descriptor_response.file_descriptor_proto
                assert symbol.rpartition(".")[2].encode() in b"".join(files)
                assert not symbol.startswith("flagd.") or b"flagKey" in b"".join(files), "fields have their JSON names"
            unknown = "flagsvc.v1.FlagService.Nothing"
            await stream.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=unknown))
            assert (await stream.read()).error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
            stream.cancel()
        await client.channel.close()


@pytest.mark.parametrize(
    ("arguments", "environment", "text"),
    [
        ((), {"FLAGSVC_STORE_ULR": "x"}, "did you mean FLAGSVC_STORE_URL"),
        (("--store", "mongo://db"), {}, "did you mean mongodb://"),
        (("--store", "sqlite://flags.db"), {}, "three slashes"),
        (("--cache", "redis//host"), {}, "redis://"),
        (("--store", "mongodb://user:hunter2@:27017x/db"), {}, "port"),
        (("--context-value", "a=1", "--context-value", "b"), {}, "--context-value has 'b'"),
        ((), {"FLAGSVC_PORT": "eighty"}, "FLAGSVC_PORT"),
        ((), {"FLAGSVC_DEFAULT_FLAG_SET": "grpc=web;sink=b"}, "has 'sink=b'; it must be a flag set for all"),
        ((), {"FLAGSVC_STALENESS_BOUND_S": "0"}, "0.5 to 300"),
        ((), {"FLAGSVC_CACHE_URL_FILE": "/nowhere"}, "cannot read the file"),
    ],
)
async def test_invalid_settings_stop_the_start(
    arguments: tuple[str, ...], environment: dict[str, str], text: str
) -> None:
    with Process(*arguments, **environment) as server:
        assert server.process
        _, errors = await asyncio.to_thread(server.process.communicate, timeout=60)
        assert server.process.returncode == 2
        assert text in errors
        assert "Traceback" not in errors
        assert "hunter2" not in errors


async def test_an_error_outside_the_domain_leaks_nothing_and_is_logged(
    store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def broken(*_: object) -> None:
        raise ValueError("mongodb://user:hunter2@10.1.2.3/")

    async with replica(store_url=store) as (client, _):
        await until_serving(client)
        monkeypatch.setattr(SqliteStore, "history", broken)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.stub.ListFlagHistory(pb.ListFlagHistoryRequest(flag_key="a"))
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert "hunter2" not in repr(caught.value)
        assert "request id" in str(caught.value.details())
        assert str(caught.value.details()).rpartition(" ")[2] in capsys.readouterr().out


async def test_an_overloaded_server_refuses_and_stays_healthy(store: str) -> None:
    async with replica(store_url=store, max_writes=4, max_streams=2) as (client, _):
        await until_serving(client)
        streams = [client.stub.WatchFlags(pb.WatchFlagsRequest()) for _ in range(3)]
        results = await asyncio.gather(*(stream.read() for stream in streams), return_exceptions=True)
        [error] = [r for r in results if isinstance(r, grpc.aio.AioRpcError)]
        assert (error.code(), reason_of(error)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_REQUESTS")
        assert await client.serving()
        await client.create("a")
        with contextlib.closing(sqlite3.connect(store.removeprefix("sqlite:///"), isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")  # the toggles wait for this transaction to end
            toggles = [asyncio.ensure_future(client.toggle("a", True)) for _ in range(40)]
            await until(lambda: sum(toggle.done() for toggle in toggles) == 36)
            other.execute("ROLLBACK")
        results = await asyncio.gather(*toggles, return_exceptions=True)
        codes = [r.code() for r in results if isinstance(r, grpc.aio.AioRpcError)]
        assert codes == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 36
        assert (await client.evaluate("a")).status == types.FLAG_STATUS_ENABLED
        for stream in streams:
            stream.cancel()


async def test_another_process_that_changes_the_embedded_file_is_seen(store: str, tmp_path: Path) -> None:
    file = tmp_path / "flags.ndjson"
    file.write_text(json.dumps({"key": "imported", "name": "x", "status": "ENABLED"}) + "\n")
    with Process("--store", store) as server:
        client = Client(server.address)
        await until_serving(client)
        assert (await client.evaluate("imported")).error_code == types.ERROR_CODE_FLAG_NOT_FOUND
        await asyncio.to_thread(subprocess.run, [FLAGSVC, "import", file, "--store", store], check=True)
        deadline = time.monotonic() + 5
        while not (await client.evaluate("imported")).enabled:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        await client.channel.close()
