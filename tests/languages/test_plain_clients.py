"""Clients without a provider, in plain text and over TLS: PHP's POST by curl, and `buf curl` in three protocols."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.languages.asked import QUESTIONS, Answer, FlagFile, differences, serving_questions, tls_of
from tests.replicas import Process

BUF = str(Path(sys.executable).with_name("buf"))
PROTOS = Path(__file__).parents[2] / "protos"
METHODS = {"boolean": "Boolean", "string": "String", "integer": "Int", "float": "Float", "object": "Object"}
CODES = {"not_found": "FLAG_NOT_FOUND", "invalid_argument": "TYPE_MISMATCH", "data_loss": "PARSE_ERROR"}
PROTOCOLS = ["connect", "grpcweb", "grpc"]
FEW = [question["name"] for question in QUESTIONS[::4]]
"""`buf curl` takes a third of a second for a question."""

pytestmark = pytest.mark.timeout(600)


class Served(NamedTuple):
    server: Process
    file: FlagFile
    scheme: str
    trust: tuple[str, ...]
    """The option of curl and of `buf curl` for the CA."""


@pytest.fixture(scope="module", params=["http", "https"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    options, ca = tls_of(folder) if request.param == "https" else ((), "")
    with serving_questions(folder, *options) as (server, file):
        yield Served(server, file, request.param, ("--cacert", ca) if ca else ())


def test_the_post_of_the_provider_for_php(served: Served) -> None:
    def ask(kind: str, key: str, default: Any, context: dict[str, Any]) -> Answer:
        body = json.dumps({"flagKey": key, "context": context})
        url = f"{served.scheme}://{served.server.address}/schema.v1.Service/Resolve{METHODS[kind]}"
        done = run("curl", "--silent", *served.trust, "--header", "Content-Type: application/json", "--data", body, url)
        return answer_of(json.loads(done.stdout), kind, default)

    assert differences("curl-schema.v1", ask) == {}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_buf_curl(served: Served, protocol: str) -> None:
    def ask(kind: str, key: str, default: Any, context: dict[str, Any]) -> Answer:
        body = json.dumps({"flagKey": key, "context": context})
        done = run(*buf_curl(served, protocol, f"Resolve{METHODS[kind]}"), "--emit-defaults", "--data", body)
        return answer_of(json.loads(done.stdout or done.stderr), kind, default)

    assert differences(f"buf-{protocol}", ask, FEW[::3] if served.trust else FEW) == {}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_buf_curl_sees_a_change(served: Served, protocol: str) -> None:
    command = buf_curl(served, protocol, "EventStream")
    with subprocess.Popen(["timeout", "20", *command], stdout=subprocess.PIPE, text=True) as process:
        events = documents(process)
        assert next(events)["type"] == "provider_ready"
        served.file.toggle("off")
        assert any("toggled" in event.get("data", {}).get("flags", {}) for event in events)
        process.terminate()
    served.file.toggle("on")


def buf_curl(served: Served, protocol: str, method: str) -> list[str]:
    """The command. Over TLS gRPC is called on the sync port: buf offers HTTP/1.1 too, which the gRPC port prefers."""
    port = served.server.sync_port if served.trust and protocol == "grpc" else served.server.port
    prior = ["--http2-prior-knowledge"] if protocol == "grpc" and not served.trust else []
    url = f"{served.scheme}://127.0.0.1:{port}/flagd.evaluation.v2.Service/{method}"
    return [BUF, "curl", "--schema", str(PROTOS), "--protocol", protocol, *prior, *served.trust, url]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def documents(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    """The JSON documents that a process prints, one after the other."""
    text = ""
    assert process.stdout
    for line in process.stdout:
        text += line
        try:
            document = json.loads(text)
        except ValueError:
            continue
        text = ""
        yield document


def answer_of(found: dict[str, Any], kind: str, default: Any) -> Answer:
    """The answer as a provider reads it: an unset value is the caller's default, and 64 bits are text in JSON."""
    if "code" in found:
        return {"value": default, "reason": "ERROR", "errorCode": CODES.get(found["code"], "GENERAL")}
    value = found.get("value", default)
    return {**found, "value": int(value) if kind == "integer" else value}
