"""What gRPC sends before it closes a connection reaches the caller, whatever the caller sends at that time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest
import uvloop

from flagsvc.front.crowding import Crowding
from flagsvc.front.pipe import End, Inner

LAST = b"trailers " * 10_000


@pytest.mark.parametrize("new_loop", [uvloop.new_event_loop, asyncio.SelectorEventLoop], ids=["uvloop", "asyncio"])
def test_the_last_words_arrive_although_a_write_fails_before_they_are_read(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(_received()) == LAST


async def _received() -> bytes:
    crowding, loop = Crowding(lambda: 0), asyncio.get_running_loop()
    (caller, outer), (grpc, inner) = socket.socketpair(), socket.socketpair()
    with caller, grpc:
        end = End(crowding)
        await loop.create_connection(lambda: end, sock=outer)
        transport, _ = await loop.create_connection(lambda: Inner(crowding).join(end), sock=inner)
        transport.pause_reading()
        await loop.run_in_executor(None, grpc.sendall, LAST)
        grpc.close()
        end.data_received(b"a window update")
        received = b""
        caller.setblocking(False)
        while data := await loop.sock_recv(caller, 65_536):
            received += data
        return received
