"""A call whose path is no UTF-8: gRPC's own server stops for good at it, silently."""

from __future__ import annotations

from pathlib import Path

from tests.replicas import Client, replica, until, until_serving
from tests.unreading import Unreading


async def test_grpc_is_served_again_after_a_path_that_is_no_text(tmp_path: Path) -> None:
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db", sync_port=0) as (client, server):
        await until_serving(client)
        await client.create("a")
        for times in (1, 2):
            with Unreading(server.port) as raw:
                raw.call("/flagsvc.v1.FlagService/EvaluateFlag\xff")
                await until(lambda times=times: server._grpc["grpc"].replaced == times)
            for port in (server.port, server.sync_port):
                other = Client(f"127.0.0.1:{port}")
                await until_serving(other)
                assert (await other.evaluate("a")).flag_key == "a"
                await other.channel.close()
        await until_serving(client)
        assert (await client.evaluate("a")).flag_key == "a", "a client from before connects by itself"
