"""A call whose path is no UTF-8: gRPC's own server stops for good at it, silently."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.replicas import Client, replica, until, until_serving
from tests.unreading import _END_HEADERS, _END_STREAM, Unreading, _field, _frame

BAD = b"/flagsvc.v1.FlagService/Evaluate\xff"


def send_bad_path(port: int) -> None:
    fields = {b":method": b"POST", b":scheme": b"http", b":path": BAD, b":authority": b"a", b"te": b"trailers"}
    block = b"".join(_field(name, value) for name, value in (fields | {b"content-type": b"application/grpc"}).items())
    with Unreading(port) as raw:
        message = _frame(0, _END_STREAM, 1, struct.pack(">BI", 0, 0))
        raw._socket.sendall(_frame(1, _END_HEADERS, 1, block) + message)
        raw.frames(0.2)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_grpc_is_served_again_after_a_path_that_is_no_text(tmp_path: Path) -> None:
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db", sync_port=0) as (client, server):
        await until_serving(client)
        await client.create("a")
        for times in (1, 2):
            send_bad_path(server.port)
            await until(lambda times=times: server._grpc.replaced == times)
            for port in (server.port, server.sync_port):
                other = Client(f"127.0.0.1:{port}")
                await until_serving(other)
                assert (await other.evaluate("a")).flag_key == "a"
                await other.channel.close()
        await until_serving(client)
        assert (await client.evaluate("a")).flag_key == "a", "a client from before connects by itself"
