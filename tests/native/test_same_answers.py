"""Both transports give the same bytes, codes, details, trailers and counts for each direct method."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from flagsvc.api.common.request_limits import MAX_EVALUATION_BYTES
from flagsvc.generated.flagd.evaluation.v1 import evaluation_pb2 as v1
from flagsvc.generated.flagd.evaluation.v2 import evaluation_pb2 as v2
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.generated.schema.v1 import schema_pb2 as schema
from flagsvc.server import Server
from tests.replicas import Client, replica, until_serving

EVALUATE = "/flagsvc.v1.FlagService/EvaluateFlag"
NAMES = ("Boolean", "String", "Float", "Int", "Object")
PROTOCOLS = {"flagd.evaluation.v1": v1, "flagd.evaluation.v2": v2, "schema.v1": schema}
TEXT, NUMBER, TRUE = types.Value(string_value="x"), types.Value(integer_value=7), types.Value(boolean_value=True)
OBJECT = types.Value(object_value=types.ObjectValue(fields={"n": NUMBER, "t": TEXT}))
LIST = types.Value(list_value=types.ListValue(values=[NUMBER] * 600))
MANY = types.Value(object_value=types.ObjectValue(fields={"l": LIST}))
RULE = '{"if":[{"==":[{"var":"plan"},"gold"]},"b",{"==":[{"var":"plan"},"none"]},{"var":"plan"}]}'
SPLIT = '{"fractional":[["a",50],["b",50]]}'
ENABLED = types.FLAG_STATUS_ENABLED
FLAGS: dict[str, dict[str, Any]] = {
    "switch": {"status": ENABLED},
    "off": {"status": types.FLAG_STATUS_DISABLED},
    "beta": {"status": types.FLAG_STATUS_BETA},
    "text": {"status": ENABLED, "variants": {"a": TEXT}, "default_variant": "a"},
    "seven": {"status": ENABLED, "variants": {"a": NUMBER}, "default_variant": "a"},
    "ten": {"status": ENABLED, "variants": {"a": types.Value(float_value=10.0)}, "default_variant": "a"},
    "object": {"status": ENABLED, "variants": {"a": OBJECT}, "default_variant": "a"},
    "long": {"status": ENABLED, "variants": {"a": MANY}, "default_variant": "a"},
    "no-default": {"status": ENABLED, "variants": {"a": TEXT}, "targeting": '{"if":[false,"a"]}'},
    "ruled": {"status": ENABLED, "variants": {"a": TEXT, "b": TEXT}, "default_variant": "a", "targeting": RULE},
    "split": {"status": ENABLED, "variants": {"a": TEXT, "b": TEXT}, "default_variant": "a", "targeting": SPLIT},
    "timed": {
        "status": ENABLED,
        "targeting": '{"if":[{">":[{"var":"$flagd.timestamp"},1]},"on","off"]}',
        "metadata": {"team": TEXT},
    },
}
CONTEXTS: dict[str, dict[str, Any]] = {
    "none": {},
    "key": {"targetingKey": "user-1"},
    "gold": {"plan": "gold", "targetingKey": "user-2"},
    "wrong": {"plan": "none"},
    "large": {"text": "x" * 10_000, "plan": "gold"},
    "too large": {"text": "x" * 70_000},
}
HEADERS: dict[str, tuple[tuple[str, str], ...]] = {
    "none": (),
    "default set": (("flagd-selector", "flagSetId=default"),),
    "other set": (("flagd-selector", "flagSetId=other"),),
    "wrong selector": (("flagd-selector", "nope=1"),),
    "mapped": (("x-plan", "gold"),),
    "revision": (("flagsvc-min-revision", "3"),),
    "revision to come": (("flagsvc-min-revision", "999999"),),
    "wrong revision": (("flagsvc-min-revision", "x"),),
}
AGE = re.compile(r"age_ms: \d+\n")
REQUEST_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|\d+\.\d+ s")


@dataclass(frozen=True)
class Asked:
    """One call."""

    path: str
    payload: bytes
    headers: tuple[tuple[str, str], ...] = ()
    timeout_s: float = 10.0


@pytest.fixture(scope="module")
async def both(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, tuple[Client, Server]]]:
    """Two servers with the same flags at the same revisions, one over each transport."""
    found = {}
    async with AsyncExitStack() as stack:
        for transport in ("grpcio", "native"):
            url = f"sqlite:///{tmp_path_factory.mktemp(transport)}/flags.db"
            served = replica(
                store_url=url,
                cache_url="none",
                transport=transport,
                context_from_headers="x-plan=plan",
                context_values="region=eu",
            )
            client, server = await stack.enter_async_context(served)
            await until_serving(client)
            for key, fields in FLAGS.items():
                await client.create(key, **fields)
                await client.create(key, flag_set="other", **fields)
            found[transport] = client, server
        yield found


def evaluations() -> Iterator[Asked]:
    def request(key: str, context: dict[str, Any], **fields: Any) -> bytes:
        attributes = {k: types.Value(string_value=v) for k, v in context.items() if k != "targetingKey"}
        read = types.EvaluationContext(targeting_key=context.get("targetingKey", ""), attributes=attributes)
        return pb.EvaluateFlagRequest(flag_key=key, context=read, **fields).SerializeToString()

    for key in (*FLAGS, "unknown", "", "\x01"):
        for context in CONTEXTS.values():
            yield Asked(EVALUATE, request(key, context))
        for kind in types.ValueType.values():
            yield Asked(EVALUATE, request(key, CONTEXTS["gold"], expected_type=kind))
        for fields in ({"flag_set": "other"}, {"explain": True}, {"min_revision": 2}, {"min_revision": -1}):
            yield Asked(EVALUATE, request(key, CONTEXTS["key"], **fields))
    yield Asked(EVALUATE, request("switch", {}, expected_type=99))
    yield Asked(EVALUATE, request("switch", {}), HEADERS["mapped"])
    yield Asked(EVALUATE, request("ruled", {}), HEADERS["mapped"])
    for payload in (b"", b"\xff", b"\x0a\x02\xff\xfe", b"\x0a\x80", b"\x0a\x01a" * 50_000):
        yield Asked(EVALUATE, payload)


def resolutions() -> Iterator[Asked]:
    for service, messages in PROTOCOLS.items():
        for name in NAMES:
            path = f"/{service}.Service/Resolve{name}"
            make = getattr(messages, f"Resolve{name}Request")

            def request(key: str, context: dict[str, Any], make: Callable[..., Any] = make) -> bytes:
                message = make(flag_key=key)
                message.context.update(context)
                encoded: bytes = message.SerializeToString()
                return encoded

            for key in (*FLAGS, "unknown", ""):
                yield Asked(path, request(key, CONTEXTS["gold"]))
            if name in ("Boolean", "String"):
                for key in ("switch", "ruled", "off"):
                    yield from (Asked(path, request(key, context)) for context in CONTEXTS.values())
                    yield from (Asked(path, request(key, {}), headers) for headers in HEADERS.values())
            yield Asked(path, b"\xff")
            yield Asked(path, b"x" * (MAX_EVALUATION_BYTES + 1))


async def seen_of(client: Client, asked: Asked) -> tuple[Any, ...]:
    """Return all that a caller can see of an answer, without what differs from call to call."""
    call = client.channel.unary_unary(asked.path)(asked.payload, metadata=asked.headers, timeout=asked.timeout_s)
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        initial = error.initial_metadata()
        trailers = tuple((key, REQUEST_ID.sub("", repr(value))) for key, value in error.trailing_metadata())
        return error.code(), REQUEST_ID.sub("", error.details() or ""), initial is not None and len(initial), trailers
    if asked.path == EVALUATE:
        message = pb.EvaluateFlagResponse.FromString(answer)
        message.evaluation.ClearField("age_ms")
        answer = message.SerializeToString(deterministic=True)
    return grpc.StatusCode.OK, answer, tuple(await call.trailing_metadata())


CASES = [*evaluations(), *resolutions()]


async def test_both_give_the_same_answers(both: dict[str, tuple[Client, Server]]) -> None:
    differ = []
    for asked in CASES:
        grpcio, native = await asyncio.gather(*(seen_of(client, asked) for client, _ in both.values()))
        if grpcio != native:
            differ.append((asked, grpcio, native))
    assert not differ, differ[:3]


async def test_both_count_the_same(both: dict[str, tuple[Client, Server]]) -> None:
    pages = [counted(server) for _, server in both.values()]
    assert pages[0] == pages[1]
    assert sum(pages[1].values()) > len(CASES)


async def test_most_is_answered_by_the_thread(both: dict[str, tuple[Client, Server]]) -> None:
    _, server = both["native"]
    reader = server.replica.reader
    assert sum(stats.near for stats in reader.other_stats) > len(CASES) / 4


def counted(server: Server) -> dict[str, float]:
    """Return what is counted of calls and evaluations."""
    found = re.findall(r"(?m)^(flagsvc_(?:call_seconds_count|\w*evaluations_total)\{.*\}) (\S+)$", page(server))
    return {name: float(value) for name, value in found}


def page(server: Server) -> str:
    return server._metrics.page().decode()
