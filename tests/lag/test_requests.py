"""The search for the longest hold leaves out no RPC and no route."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import httpx

from flagsvc.api.ofrep.app import EVENTS, FLAGS
from tests.fuzz.grpc_calls import learned
from tests.lag.messages import Sizes
from tests.lag.requests import Requests, Row
from tests.replicas import replica, until_serving

NOT_SERVED = (grpc.StatusCode.UNIMPLEMENTED, "no such path", 405, 415)


async def status_of(row: Row) -> object:
    try:
        answer = await row.call(Sizes())
    except grpc.aio.AioRpcError as error:
        return error.code()
    if not isinstance(answer, httpx.Response):
        return answer
    is_json = answer.headers.get("content-type", "").startswith("application/json")
    return "no such path" if answer.status_code == 404 and not is_json else answer.status_code


async def test_each_rpc_and_each_route_has_a_request_that_reaches_it(tmp_path: Path) -> None:
    ports = {"ofrep_port": 0, "management_port": 0}
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db", **ports) as (client, server):
        await until_serving(client)
        served = await asyncio.to_thread(learned, f"127.0.0.1:{server.port}")
        requests = Requests(server.port, server.ofrep_port, server.management_port, resume=0)
        rows = requests.rows()
        statuses = {name: await status_of(row) for name, row in rows.items()}
        await requests.close()
    assert not {name: status for name, status in statuses.items() if status in NOT_SERVED}
    routes = {FLAGS, FLAGS + "/{key}", EVENTS, "/metrics", "/healthz", "/readyz"}
    assert {row.path for row in rows.values()} == served.keys() | routes
    over_http = {row.path for name, row in rows.items() if name.endswith((", JSON", ", Web"))}
    assert over_http == {path for path in served if path.startswith(("/flagsvc.", "/flagd.evaluation.v2", "/schema."))}
