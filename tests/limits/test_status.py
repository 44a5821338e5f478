"""What an operator sees of rate limits while Redis is gone."""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path

import grpc

from tests.replicas import replica, until, until_serving
from tests.servers import free_port


async def test_status_and_metrics_say_that_redis_cannot_be_asked(tmp_path: Path) -> None:
    cache = f"redis://127.0.0.1:{free_port()}/0"
    async with replica(
        store_url=f"sqlite:///{tmp_path}/flags.db", cache_url=cache, rate_limits="enforce", rates="evaluate=3"
    ) as (client, server):
        await until_serving(client)
        await until(lambda: any(p.name == "rate_limits_divided" for p in server.replica.status().problems))
        samples = {sample.name: sample.value for sample in server._samples()}
        assert samples["flagsvc_rate_limits_divided"] == 1
        answers = [await answer_of(client.evaluate("a")) for _ in range(8)]
        assert {"OK", "RESOURCE_EXHAUSTED"} == set(answers), "limited all the same"


async def answer_of(call: Awaitable[object]) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"
