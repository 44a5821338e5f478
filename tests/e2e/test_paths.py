"""A call whose path is no UTF-8, at which gRPC's own server would stop for good, silently."""

from __future__ import annotations

import asyncio
import codecs
from pathlib import Path

import pytest

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.grpc_paths import STRICT
from tests.replicas import Client, replica, until, until_serving
from tests.unreading import Unreading

NO_TEXT = "/flagsvc.v1.FlagService/EvaluateFlag\xff"


@pytest.mark.grpcio
async def test_a_path_that_is_no_text_is_refused_and_concerns_nobody_else(tmp_path: Path) -> None:
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db", sync_port=0) as (client, server):
        await until_serving(client)
        await client.create("a")
        stream = client.stub.WatchFlags(pb.WatchFlagsRequest())
        await stream.read()
        for port in (server.port, server.sync_port):
            with Unreading(port) as raw:
                raw.call(NO_TEXT)
                frames = await asyncio.to_thread(raw.frames, 0.3)
                answers = [payload for kind, _, _, payload in frames if kind == 1]
            assert b"12" in answers[0], "UNIMPLEMENTED"
            assert b"Method not found!" in answers[0]
        assert not stream.done(), "connections from before are still open"
        assert [each.replaced for each in server._grpc.values()] == [0, 0]


@pytest.mark.grpcio
async def test_grpc_is_served_again_when_its_server_has_stopped_by_itself(tmp_path: Path) -> None:
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db", sync_port=0) as (client, server):
        await until_serving(client)
        await client.create("a")
        codecs.register_error("strict", STRICT)  # grpcio fails as it does by itself
        for times in (1, 2):
            with Unreading(server.port) as raw:
                raw.call(NO_TEXT)
                await until(lambda times=times: server._grpc["grpc"].replaced == times)
                codecs.register_error("strict", STRICT)  # the new server has set it
            for port in (server.port, server.sync_port):
                other = Client(f"127.0.0.1:{port}")
                await until_serving(other)
                assert (await other.evaluate("a")).flag_key == "a"
                await other.channel.close()
        await until_serving(client)
        assert (await client.evaluate("a")).flag_key == "a", "a client from before connects by itself"
