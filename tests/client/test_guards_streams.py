"""Streams that end when their flag goes off, however they are implemented, and streams that must not end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Literal

import grpc
import pytest
from flagsvc_client import AsyncFlagClient
from flagsvc_client.guards import Rule
from flagsvc_client.guards.aio import FlagGuard

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.client.guarded_flags import ALL, ENABLED, PAID, Flags, flag_server, guarded
from tests.client.guarded_services import SERVICE, serving, to_end
from tests.replicas import info_of, until

STREAM = f"/{SERVICE}/unary_stream"


@pytest.fixture(scope="module")
async def flags(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Flags]:
    async with flag_server(tmp_path_factory.mktemp("streams")) as running:
        yield running


async def refusal_of(call: Any, key: str) -> None:
    """Read to the end, which must be the refusal."""
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await to_end(call)
    assert failure.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert failure.value.details() == f'Feature "{key}" is not enabled'
    assert dict(info_of(failure.value).metadata) == {"feature": key, "status": "DISABLED"}


# A thread cannot be woken: its silent stream ends before its next message, so it is not tested here.
@pytest.mark.parametrize(
    ("form", "manner"),
    [
        ("asyncio", b"silent"),
        ("asyncio", b"endless"),
        ("asyncio writers", b"silent"),
        ("threads in asyncio", b"endless"),
        ("sync", b"endless"),
    ],
)
@pytest.mark.parametrize("local", [False, True])
async def test_a_running_stream_ends_when_its_flag_goes_off(
    form: str, manner: bytes, local: bool, flags: Flags
) -> None:
    key = f"{form}-{manner.decode()}-{local}".replace(" ", "-")
    await flags.create(key, status=ENABLED)
    async with guarded(form, flags.target, {ALL: key}, local=local, end_streams=True) as (channel, seen):
        stream = channel.unary_stream(STREAM)(manner, timeout=10)
        assert await stream.read() == manner
        await flags.toggle(key, enabled=False)
        await refusal_of(stream, key)
        if form == "asyncio":
            assert seen.ends[-1] == "finally"
        if manner == b"silent":
            assert "cancelled" in seen.ends


@pytest.mark.parametrize("form", ["asyncio", "sync"])
async def test_a_stream_of_requests_ends_too(form: str, flags: Flags) -> None:
    key = f"uploads-{form}"
    await flags.create(key, status=ENABLED)
    async with guarded(form, flags.target, {ALL: key}, end_streams=True) as (channel, seen):
        upload = channel.stream_unary(f"/{SERVICE}/stream_unary")(timeout=10)
        await upload.write(b"part")
        await until(lambda: seen.calls == [b"part"])
        await flags.toggle(key, enabled=False)
        if form == "sync":
            await upload.write(b"part")
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await upload
        assert failure.value.details() == f'Feature "{key}" is not enabled'


async def test_a_reader_that_pauses_gets_the_refusal(flags: Flags) -> None:
    await flags.create("slow-reader", status=ENABLED)
    sent = 0
    tasks: list[Any] = []

    async def unary_stream(_: bytes, context: Any) -> AsyncIterator[bytes]:
        nonlocal sent
        tasks.append(asyncio.current_task())
        try:
            while True:
                yield bytes(100_000)
                sent += 1
        finally:
            tasks.append(asyncio.current_task())

    async with AsyncFlagClient(flags.target) as client:
        guard = FlagGuard(client, {ALL: "slow-reader"}, end_streams=True)
        functions = {"unary_stream": unary_stream}
        async with serving("asyncio", (guard,), functions) as (address, _):  # noqa: SIM117
            async with grpc.aio.insecure_channel(address) as channel:
                stream = channel.unary_stream(STREAM)(b"", timeout=10)
                await stream.read()
                before = -1
                while before != sent:
                    before = sent
                    await asyncio.sleep(0.1)
                await flags.toggle("slow-reader", enabled=False)
                await asyncio.sleep(0.1)
                await refusal_of(stream, "slow-reader")
                await until(lambda: len(tasks) == 2)
                assert tasks[0] is tasks[1]  # what a handler holds open can be closed by its own task only


async def test_a_handler_that_cleans_up_is_not_disturbed_by_further_changes(flags: Flags) -> None:
    await flags.create("orderly", status=ENABLED)
    cleaning, cleaned, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def unary_stream(_: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        try:
            await asyncio.Event().wait()
        finally:
            cleaning.set()
            await go_on.wait()
            cleaned.set()

    asked = 0

    def context_of(metadata: Any, method: str) -> None:
        nonlocal asked
        asked += 1

    async with AsyncFlagClient(flags.target) as client:
        guard = FlagGuard(client, {ALL: "orderly"}, end_streams=True, context_of=context_of)
        functions = {"unary_stream": unary_stream}
        async with serving("asyncio", (guard,), functions) as (address, _):  # noqa: SIM117
            async with grpc.aio.insecure_channel(address) as channel:
                stream = channel.unary_stream(STREAM)(b"", timeout=10)
                assert await stream.read() == b"first"
                await flags.toggle("orderly", enabled=False)
                await cleaning.wait()
                before = asked
                update = pb.UpdateFlagRequest(flag=types.Flag(key="orderly", name="Other"))
                update.update_mask.paths.append("name")
                await flags.stub.UpdateFlag(update, timeout=5)
                await until(lambda: asked > before)
                await asyncio.sleep(0.05)
                go_on.set()
                await refusal_of(stream, "orderly")
                assert cleaned.is_set()


async def test_only_streams_whose_context_lost_the_flag_end(flags: Flags) -> None:
    await flags.create("by-plan", status=ENABLED)
    async with guarded("asyncio", flags.target, {ALL: "by-plan"}, end_streams=True) as (channel, _):
        free, paid = (
            channel.unary_stream(STREAM)(b"endless", timeout=10, metadata=(("flagsvc-context-plan", plan),))
            for plan in ("free", "paid")
        )
        await free.read()
        await paid.read()
        update = pb.UpdateFlagRequest(flag=types.Flag(key="by-plan", targeting=PAID))
        update.update_mask.paths.append("targeting")
        await flags.stub.UpdateFlag(update, timeout=5)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await to_end(free)
        assert dict(info_of(failure.value).metadata) == {"feature": "by-plan", "status": "ENABLED"}
        for _ in range(5):
            assert await paid.read() == b"endless"
        paid.cancel()


async def test_a_change_between_admission_and_watch_is_seen(flags: Flags) -> None:
    await flags.create("narrow", status=ENABLED)

    class Late(AsyncFlagClient):
        async def watch(self) -> AsyncIterator[Any]:
            await flags.toggle("narrow", enabled=False)
            async for message in super().watch():
                yield message

    async with Late(flags.target) as client:
        guard = FlagGuard(client, {ALL: "narrow"}, end_streams=True)
        async with serving("asyncio", (guard,)) as (address, _), grpc.aio.insecure_channel(address) as channel:
            await refusal_of(channel.unary_stream(STREAM)(b"silent", timeout=10), "narrow")


async def test_a_handler_that_ignores_cancellation_is_refused_when_it_returns(flags: Flags) -> None:
    await flags.create("stubborn", status=ENABLED)

    async def unary_stream(_: bytes, context: Any) -> None:
        await context.write(b"first")
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await context.write(b"second")

    async with AsyncFlagClient(flags.target) as client:
        guard = FlagGuard(client, {ALL: "stubborn"}, end_streams=True)
        functions = {"unary_stream": unary_stream}
        async with serving("asyncio", (guard,), functions) as (address, _):  # noqa: SIM117
            async with grpc.aio.insecure_channel(address) as channel:
                stream = channel.unary_stream(STREAM)(b"", timeout=10)
                assert await stream.read() == b"first"
                await flags.toggle("stubborn", enabled=False)
                assert await stream.read() == b"second"
                await refusal_of(stream, "stubborn")


async def test_a_change_while_a_stream_is_admitted_is_seen(flags: Flags) -> None:
    await flags.create("raced", status=ENABLED)
    raced = False

    class Slow(AsyncFlagClient):
        async def details(self, *args: Any, min_revision: int = 0, **kwargs: Any) -> Any:
            found = await super().details(*args, min_revision=min_revision, **kwargs)
            if raced and not min_revision:
                await flags.toggle("raced", enabled=False)
                await first_ended.wait()
            return found

    async with Slow(flags.target) as client:
        guard = FlagGuard(client, {STREAM: "raced", ALL: "on"}, end_streams=True)
        async with serving("asyncio", (guard,)) as (address, seen), grpc.aio.insecure_channel(address) as channel:
            first_ended = asyncio.Event()
            other = channel.stream_unary(f"/{SERVICE}/stream_unary")(timeout=10)
            await other.write(b"keeps the watch running")
            await until(lambda: bool(seen.calls))
            first = channel.unary_stream(STREAM)(b"silent", timeout=10)
            await first.read()
            raced = True
            second = channel.unary_stream(STREAM)(b"silent", timeout=10)
            await refusal_of(first, "raced")
            first_ended.set()
            await refusal_of(second, "raced")
            other.cancel()


async def test_a_change_is_evaluated_at_its_revision_and_others_are_not_evaluated(flags: Flags) -> None:
    """The replica that evaluates may not be the one that announced the change."""
    await flags.create("asked", status=ENABLED)
    asked: list[int] = []

    class Asking(AsyncFlagClient):
        async def details(self, *args: Any, min_revision: int = 0, **kwargs: Any) -> Any:
            asked.append(min_revision)
            return await super().details(*args, min_revision=min_revision, **kwargs)

    async with Asking(flags.target) as client:
        guard = FlagGuard(client, {ALL: "asked"}, end_streams=True)
        async with serving("asyncio", (guard,)) as (address, _), grpc.aio.insecure_channel(address) as channel:
            stream = channel.unary_stream(STREAM)(b"silent", timeout=10)
            assert await stream.read() == b"silent"
            await until(lambda: len(asked) == 2)  # at its beginning, and for the watch's snapshot
            await flags.toggle("off", enabled=False)
            changed = await flags.toggle("asked", enabled=False)
            await refusal_of(stream, "asked")
            assert asked[2:] == [changed.revision]


async def test_a_caller_that_cancels_ends_its_stream_and_the_watch_ends_with_the_last_stream(flags: Flags) -> None:
    async with AsyncFlagClient(flags.target) as client:
        guard = FlagGuard(client, {ALL: "on"}, end_streams=True)
        async with serving("asyncio", (guard,)) as (address, seen), grpc.aio.insecure_channel(address) as channel:
            streams = [channel.unary_stream(STREAM)(b"silent", timeout=10) for _ in range(2)]
            for stream in streams:
                await stream.read()
            streams[0].cancel()
            await until(lambda: seen.ends == ["cancelled", "finally"])
            assert watches() == 1
            streams[1].cancel()
            await until(lambda: len(seen.ends) == 4)
            await until(lambda: watches() == 0)


def watches() -> int:
    """Watches that guards run now."""
    return sum("Streams._watch_flags" in repr(task) for task in asyncio.all_tasks())


@pytest.mark.parametrize("on_trouble", ["close", "open"])
@pytest.mark.parametrize("form", ["asyncio", "sync"])
async def test_a_stream_goes_on_while_its_flag_cannot_be_verified(
    form: str, on_trouble: Literal["close", "open"], flags: Flags
) -> None:
    key = f"unverified-{form}-{on_trouble}"
    await flags.create(key, status=ENABLED)
    fail = False

    def context_of(metadata: Any, method: str) -> None:
        if fail:
            raise ValueError

    rules = {ALL: Rule(key, on_trouble)}
    async with guarded(form, flags.target, rules, end_streams=True, context_of=context_of) as (channel, _):
        stream = channel.unary_stream(STREAM)(b"endless", timeout=10)
        await stream.read()
        fail = True
        await flags.toggle(key, enabled=False)
        for _ in range(20):
            assert await stream.read() == b"endless"
        fail = False
        await refusal_of(stream, key)
