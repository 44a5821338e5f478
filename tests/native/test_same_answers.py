"""Both transports give the same bytes, codes, details, trailers and counts for each direct method."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from flagsvc.api.common.request_limits import MAX_EVALUATION_BYTES, MAX_REQUEST_BYTES
from flagsvc.generated.flagd.evaluation.v1 import evaluation_pb2 as v1
from flagsvc.generated.flagd.evaluation.v2 import evaluation_pb2 as v2
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.generated.schema.v1 import schema_pb2 as schema
from flagsvc.limits.leasing import Leasing
from flagsvc.server import Server
from flagsvc.serving.reader import Reader
from tests.access.callers import Headers, bearer, made, stored
from tests.replicas import Client, replica, until, until_serving

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
FIELDS: tuple[dict[str, Any], ...] = (
    {"flag_set": "other"},
    {"explain": True},
    {"min_revision": 2},
    {"min_revision": -1},
    {"as_of": {"revision": 5}},
    {"as_of": {"revision": 5}, "min_revision": 1},
)
"""Fields of EvaluateFlag besides those that every case has."""
REQUEST_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|\d+\.\d+ s")


@dataclass(frozen=True)
class Asked:
    """One call."""

    path: str
    payload: bytes
    headers: tuple[tuple[str, str], ...] = ()
    timeout_s: float = 10.0


Both = dict[str, tuple[Client, Server]]
"""A server over each transport, by the transport's name."""


@asynccontextmanager
async def served(folder: Path, **settings: Any) -> AsyncIterator[Both]:
    """Serve a store over each transport; both have the same content at the same revisions."""
    found = {}
    async with AsyncExitStack() as stack:
        for transport in ("grpcio", "native"):
            url = f"sqlite:///{folder}/{transport}.db"
            options = {"context_from_headers": "x-plan=plan", "context_values": "region=eu", **settings}
            one = replica(store_url=url, cache_url="none", transport=transport, **options)
            found[transport] = client, _ = await stack.enter_async_context(one)
            await until_serving(client)
        yield found


@pytest.fixture(scope="module")
async def both(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Both]:
    async with served(tmp_path_factory.mktemp("both")) as found:
        for client, _ in found.values():
            for key, fields in FLAGS.items():
                await client.create(key, **fields)
                await client.create(key, flag_set="other", **fields)
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
        for fields in FIELDS:
            yield Asked(EVALUATE, request(key, CONTEXTS["key"], **fields))
    yield Asked(EVALUATE, request("switch", {}, expected_type=99))
    yield Asked(EVALUATE, request("switch", {}), HEADERS["mapped"])
    yield Asked(EVALUATE, request("ruled", {}), HEADERS["mapped"])
    yield Asked(EVALUATE, b"x" * (MAX_REQUEST_BYTES + 1))
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
        # The order of headers with different names means nothing.
        trailers = sorted((key, REQUEST_ID.sub("", repr(value))) for key, value in error.trailing_metadata())
        return error.code(), REQUEST_ID.sub("", error.details() or ""), initial is not None and len(initial), trailers
    if asked.path == EVALUATE:
        message = pb.EvaluateFlagResponse.FromString(answer)
        message.evaluation.ClearField("age_ms")
        message.ClearField("as_of")  # with a time
        answer = message.SerializeToString(deterministic=True)
    return grpc.StatusCode.OK, answer, tuple(await call.trailing_metadata())


CASES = [*evaluations(), *resolutions()]
SOME = CASES[::4]


async def differences(both: Both, cases: Iterable[Asked]) -> list[Any]:
    """Ask both the same, at the same time; return what they answer differently."""
    found = []
    for asked in cases:
        grpcio, native = await asyncio.gather(*(seen_of(client, asked) for client, _ in both.values()))
        if grpcio != native:
            found.append((asked, grpcio, native))
    return found


async def test_both_give_the_same_answers_and_counts(both: Both) -> None:
    """It asks a part of all. The other one is for `make test-long`."""
    assert not await differences(both, SOME)
    assert_same_counts(both)
    _, server = both["native"]
    assert sum(stats.near for stats in server.replica.reader.other_stats) > len(SOME) / 4, "by the thread"


def test_every_field_of_a_request_is_asked_with() -> None:
    """A field that the thread does not know has to be left to the event loop, or it would be ignored."""
    asked = {"flag_key", "context", "expected_type", *(name for fields in FIELDS for name in fields)}
    assert {field.name for field in pb.EvaluateFlagRequest.DESCRIPTOR.fields} == asked
    for messages in PROTOCOLS.values():
        for name in NAMES:
            fields = getattr(messages, f"Resolve{name}Request").DESCRIPTOR.fields
            assert {field.name for field in fields} == {"flag_key", "context"}


@pytest.mark.long
async def test_both_give_the_same_answers_and_counts_for_all(both: Both) -> None:
    assert not await differences(both, CASES)
    assert_same_counts(both)


async def test_both_end_late_and_abandoned_calls_alike(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = []

    async def forever(*_: object) -> None:
        waiting.append(True)
        try:
            await asyncio.Event().wait()
        finally:
            waiting.pop()

    monkeypatch.setattr(Reader, "evaluate", forever)
    request = pb.EvaluateFlagRequest(flag_key="switch", min_revision=10**6)
    for client, _ in both.values():
        call = client.stub.EvaluateFlag(request, timeout=0.2)
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: not waiting)
        left = client.stub.EvaluateFlag(request, timeout=20)
        await until(lambda: bool(waiting))
        left.cancel()
        await until(lambda: not waiting)
    assert_same_counts(both)


@pytest.fixture(scope="module")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Both, dict[str, Headers]]]:
    """Servers that ask for tokens and limit rates, and callers' headers. What a caller has used stays used."""
    folder = tmp_path_factory.mktemp("guarded")
    made_tokens = {"admin": made("admin"), "default": made("evaluate", "default"), "other": made("evaluate", "other")}
    made_tokens |= {"reader": made("read", "default"), "gateway": made("evaluate"), "slow": made("evaluate")}
    made_tokens["gateway"] = replace(made_tokens["gateway"][0], context_headers=True), made_tokens["gateway"][1]
    made_tokens["slow"] = replace(made_tokens["slow"][0], rate=3), made_tokens["slow"][1]
    for transport in ("grpcio", "native"):
        await stored(f"sqlite:///{folder}/{transport}.db", *(token for token, _ in made_tokens.values()))
    callers: dict[str, Headers] = {name: bearer(text) for name, (_, text) in made_tokens.items()}
    callers |= {"nobody": (), "wrong": bearer("fs_wrong"), "scheme": (("authorization", "Basic eDp5"),)}
    callers |= {"two": (*callers["default"], ("x-api-key", "x")), "key": (("x-api-key", made_tokens["default"][1]),)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Leasing, "run", never)
        limits = {"rate_limits": "enforce", "rates": "evaluate=10000,read=100,write=100,admin=100"}
        async with served(folder, auth="required", **limits) as found:
            for client, _ in found.values():
                for flag_set in ("default", "other"):
                    flag = types.Flag(key="ruled", flag_set=flag_set, **FLAGS["ruled"])
                    request = pb.CreateFlagRequest(flag=flag)
                    await client.stub.CreateFlag(request, metadata=callers["admin"], timeout=10)
            yield found, callers


async def never(_: Leasing) -> None:
    """Settle no share."""
    await asyncio.Event().wait()


async def test_both_let_in_the_same_callers(guarded: tuple[Both, dict[str, Headers]]) -> None:
    both, callers = guarded
    resolve, request = "/flagd.evaluation.v2.Service/ResolveString", pb.EvaluateFlagRequest
    plan = HEADERS["mapped"]
    for name, headers in callers.items():
        if name == "slow":
            continue
        calls = [
            Asked(EVALUATE, request(flag_key="ruled").SerializeToString(), (*headers, *plan)),
            Asked(EVALUATE, request(flag_key="ruled", flag_set="other").SerializeToString(), headers),
            Asked(EVALUATE, request(flag_key="ruled", explain=True).SerializeToString(), headers),
            Asked(resolve, v2.ResolveStringRequest(flag_key="ruled").SerializeToString(), (*headers, *plan)),
            Asked(
                resolve, v2.ResolveStringRequest(flag_key="x").SerializeToString(), (*headers, *HEADERS["other set"])
            ),
            Asked(resolve, b"\xff", headers),
        ]
        assert not await differences(both, calls * 2), name  # the second time they are recognized
    assert_same_counts(both)


async def test_both_limit_rates_alike(guarded: tuple[Both, dict[str, Headers]]) -> None:
    both, callers = guarded
    asked = Asked(EVALUATE, pb.EvaluateFlagRequest(flag_key="ruled").SerializeToString(), callers["slow"])
    codes = []
    for _ in range(8):
        assert not await differences(both, [asked])
        codes.append((await seen_of(both["native"][0], asked))[0])
        await seen_of(both["grpcio"][0], asked)
    assert codes[0] is grpc.StatusCode.OK
    assert codes[-1] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert_same_counts(both)


def assert_same_counts(both: Both) -> None:
    grpcio, native = (counted(server) for _, server in both.values())
    assert grpcio == native


def counted(server: Server) -> dict[str, float]:
    """Return what is counted of calls, of evaluations and of refusals by rate."""
    names = "call_seconds_count|\\w*evaluations_total|rate_limited_total"
    found = re.findall(rf"(?m)^(flagsvc_(?:{names})\{{.*\}}) (\S+)$", server._metrics.page().decode())
    return {name: float(value) for name, value in found}
