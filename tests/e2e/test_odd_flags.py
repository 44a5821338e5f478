"""A file with one flag of each odd kind beside a good one: each answers as flagd answers, and no other is touched.

`tests/data/odd_flags/answers.json` is what flagd 0.16.1 answered when it ran on the same file.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.server import Server
from tests.flag_files import replace_file
from tests.flagd_clients import Evaluator
from tests.ofrep.asking import FLAGS_PATH
from tests.replicas import Client, replica, until_serving

DATA = Path(__file__).parents[1] / "data" / "odd_flags"
FILE = DATA / "odd.flagd.json"
RECORDED = json.loads((DATA / "answers.json").read_text())
CONTEXTS: dict[str, dict[str, Any]] = RECORDED["contexts"]
KINDS = ("Boolean", "String", "Float", "Int", "Object")
ERRORS = {"DATA_LOSS": "PARSE_ERROR", "INVALID_ARGUMENT": "TYPE_MISMATCH", "UNKNOWN": "GENERAL", "INTERNAL": "GENERAL"}
"""What providers make of a status. Of UNKNOWN, which flagd sends, and INTERNAL they make the same."""


@dataclass
class Served:
    """A replica that serves the file, and its clients."""

    client: Client
    server: Server
    http: httpx.AsyncClient
    versions: dict[str, Evaluator]


@pytest.fixture(scope="module")
async def served() -> AsyncIterator[Served]:
    async with replica(store_url=f"file:{FILE}", ofrep_port=0) as (client, server):
        await until_serving(client)
        versions = {version: Evaluator(version, client.channel) for version in ("v1", "v2")}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.ofrep_port}", timeout=10) as http:
            yield Served(client, server, http, versions)


async def rpc(evaluator: Evaluator, kind: str, key: str, context: dict[str, Any], wanted: Any) -> Any:
    """Return the answer in the form of the record."""
    try:
        response = await evaluator.resolve(kind, key, context)
    except grpc.aio.AioRpcError as error:
        return ERRORS.get(error.code().name, error.code().name)
    if isinstance(wanted, list) and len(wanted) == 1:
        return [response["reason"], *response.keys() & {"value", "variant"}]
    zero = {"Boolean": False, "String": "", "Float": 0.0, "Int": 0, "Object": {}}[kind]
    value = response.get("value", zero)
    return [response.get("reason"), response.get("variant", ""), int(value) if kind == "Int" else value]


def of_kind(answers: Any, kind: str) -> Any:
    """Return what was recorded for one type; one answer may stand for all types."""
    answer = answers[kind] if isinstance(answers, dict) else answers
    return ERRORS.get(answer, answer) if isinstance(answer, str) else answer


@pytest.mark.parametrize("key", RECORDED["answers"])
async def test_an_odd_flag_answers_as_flagd_answers(served: Served, key: str) -> None:
    recorded = RECORDED["answers"][key]
    for name, context in CONTEXTS.items():
        wanted = recorded.get(name) or recorded["any"]
        for version, evaluator in served.versions.items():
            for kind in KINDS:
                answer = of_kind(wanted.get(version, wanted["v2"]), kind)
                assert await rpc(evaluator, kind, key, context, answer) == answer, (name, version, kind)
        response = await served.http.post(f"{FLAGS_PATH}/{key}", json={"context": context})
        body = response.json()
        answer = [response.status_code, body["errorCode"]] if response.status_code != 200 else None
        answer = answer or [200, body["reason"], body.get("variant") or None, body.get("value")]
        assert answer == wanted["ofrep"], name


async def test_a_bulk_evaluation_has_every_flag(served: Served) -> None:
    response = await served.http.post(FLAGS_PATH, json={"context": CONTEXTS["reach"]})
    assert {flag["key"] for flag in response.json()["flags"]} == RECORDED["answers"].keys()
    message = pb.BatchEvaluateFlagsRequest(flag_keys=list(RECORDED["answers"]))
    answer = await served.client.stub.BatchEvaluateFlags(message, timeout=10)
    assert len(answer.evaluations) == len(message.flag_keys)
    assert len((await served.client.stub.ListFlags(pb.ListFlagsRequest(page_size=100), timeout=10)).flags) == len(
        message.flag_keys
    )


async def test_nested_metadata_is_told_as_it_is(served: Served) -> None:
    wanted = {"a": {"b": [1, {"c": None}]}, "list": ["x"], "s": "x"}
    response = await served.versions["v2"].resolve("Boolean", "metadata-nested")
    assert response["metadata"] == wanted
    body = (await served.http.post(f"{FLAGS_PATH}/metadata-nested", json={})).json()
    assert body["metadata"] == wanted


async def test_the_status_names_odd_flags_and_a_rejected_file_with_lines(tmp_path: Path) -> None:
    path = tmp_path / "flags.json"
    good = '"good": {"state": "ENABLED", "variants": {"on": true}, "defaultVariant": "on"}'
    path.write_text(f'{{"flags": {{{good},\n"odd": {{"state": "off", "variants": {{"on": true}}}}}}}}')
    async with replica(store_url=f"file:{path}") as (client, server):
        await until_serving(client)
        [problem] = server.replica.status().problems
        assert (problem.name, problem.cure.endswith(f"flagsvc validate {path}")) == ("flag_file_odd", True)
        assert f"{path}:2: $.flags.odd.state: 'off', so the flag is enabled" in problem.detail
        reads = server.replica.store.reads
        replace_file(path, f'{{"flags": {{{good},\n"odd": {{"state": 7}}}}}}')
        while server.replica.store.reads == reads:
            await server.replica.store.revisions()
        [problem] = server.replica.status().problems
        assert problem.name == "flag_file_rejected"
        assert f"{path}:2: $.flags.odd.state: 7; it must be" in problem.detail
        assert "the last valid content" in problem.detail
        assert (await client.evaluate("good")).value.boolean_value is True
        reads = server.replica.store.reads
        replace_file(path, f'{{"flags": {{{good}}}}}')
        while server.replica.store.reads == reads:
            await server.replica.store.revisions()
        assert server.replica.status().problems == ()
