"""Streams of a revoked caller that are sending at that moment: each ends with its status."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc

from flagsvc.core.access.identity import UNCHECKED
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.serving.writer import WaitFor
from tests.access.callers import Headers, bearer, guarded, made, stored
from tests.replicas import Client

STREAMS = 150


async def test_streams_that_send_without_a_pause_end_with_their_status(tmp_path: Path) -> None:
    """A handler that is cancelled while gRPC sends its message ends without a status, and its client waits on."""
    store_url = f"sqlite:///{tmp_path}/flags.db"
    (admin, admin_text), (token, text) = made("admin"), made("read")
    await stored(store_url, admin, token)
    async with guarded(store_url) as (client, server):
        access, root = server.replica.access, bearer(admin_text)
        assert access is not None
        await client.stub.CreateFlag(pb.CreateFlagRequest(flag={"key": "a"}), metadata=root, timeout=5)  # type: ignore[arg-type]
        toggling = [asyncio.create_task(toggle(client, root)) for _ in range(6)]
        messages = [0] * STREAMS
        following = [asyncio.create_task(end_of(client, bearer(text), messages, each)) for each in range(STREAMS)]
        while min(messages) < 1 or sum(messages) < 10 * STREAMS:  # noqa: ASYNC110  nothing announces it
            await asyncio.sleep(0.01)
        await access.writer.revoke(UNCHECKED, token.id, None, WaitFor())
        assert set(await asyncio.gather(*following)) == {grpc.StatusCode.UNAUTHENTICATED}
        for task in toggling:
            task.cancel()


async def toggle(client: Client, headers: Headers) -> None:
    """Change the flag for ever."""
    enabled = False
    while True:
        enabled = not enabled
        request = pb.ToggleFlagRequest(flag_key="a", enabled=enabled)
        await client.stub.ToggleFlag(request, metadata=headers, timeout=10)


async def end_of(client: Client, headers: Headers, messages: list[int], place: int) -> grpc.StatusCode:
    """Follow the flags to the end, and count messages at a place; return the stream's status."""
    watch = client.stub.WatchFlags(pb.WatchFlagsRequest(), metadata=headers, timeout=20)
    try:
        while await watch.read() is not grpc.aio.EOF:
            messages[place] += 1
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK
