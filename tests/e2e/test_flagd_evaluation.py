"""flagd's evaluation services over the network: statuses, types, differences of versions, metadata, contexts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pymongo
import pytest

from flagsvc.core.targeting import compile_rule
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.flagd_clients import VERSIONS, Evaluator, refused, selecting
from tests.providers.cases import BETA, COLORS, DISABLED, FLAGS, SWITCH, flag
from tests.replicas import Client, Process, reason_of, replica, until, until_serving
from tests.servers import Mongod

pytestmark = pytest.mark.xdist_group("flagd evaluation")
CODES = grpc.StatusCode
CH = {"country": "CH"}
MAP_LIST = {"list": [1, "a", None, {"x": True}], "deep": {"a": {"b": 0.5}}, "none": None}
OTHERS = [
    flag("map", {"only": MAP_LIST}, "only"),
    flag("whole-float", {"ten": 10.0}, "ten"),
    flag("tier", SWITCH, "off", targeting={"if": [{"==": [{"var": "tier"}, "gold"]}, "on", "off"]}),
    flag("user", SWITCH, "off", targeting={"if": [{"==": [{"var": "user"}, "ann"]}, "on", "off"]}),
    flag("boolean", SWITCH, "off", flag_set="other", metadata={"flagSetId": "renamed", "team": "app"}),
    flag("elsewhere", COLORS, "red", flag_set="other"),
    flag("beta-no-rule", COLORS, "red", status=BETA),
    flag("disabled-rule", COLORS, "red", status=DISABLED, targeting={"if": [True, "blue"]}),
]


async def create(client: Client, *flags: types.Flag) -> None:
    for each in flags:
        await client.stub.CreateFlag(pb.CreateFlagRequest(flag=each), timeout=10)


@pytest.fixture(scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    """A server with all flags; no test changes them."""
    folder = tmp_path_factory.mktemp("flagd")
    settings = {"context_values": "tier=silver,region=eu-central", "context_from_headers": "X-Tier=tier,X-User=user"}
    async with replica(store_url=f"sqlite:///{folder}/flags.db", **settings) as (client, _):
        await until_serving(client)
        await create(client, *FLAGS, *OTHERS)
        yield client


@pytest.fixture(params=VERSIONS)
def each(request: pytest.FixtureRequest, client: Client) -> Evaluator:
    """Each version in turn."""
    return Evaluator(request.param, client.channel)


VALUES: dict[str, tuple[str, str, Any, str]] = {
    "a switch": ("Boolean", "switch", True, "on"),
    "boolean": ("Boolean", "boolean", True, "on"),
    "string": ("String", "string", "#00f", "blue"),
    "integer": ("Int", "integer", "9000000", "many"),
    "integer as float": ("Float", "integer-as-float", 10.0, "few"),
    "a whole float as an integer": ("Int", "whole-float", "10", "ten"),
    "float": ("Float", "float", 0.75, "high"),
    "object": ("Object", "map", MAP_LIST, "only"),
}


@pytest.mark.parametrize("row", VALUES)
async def test_each_type_is_returned_as_it_is(each: Evaluator, row: str) -> None:
    kind, key, value, variant = VALUES[row]
    found = await each.resolve(kind, key)
    assert (found["value"], found["variant"], found["reason"]) == (value, variant, "STATIC")


@pytest.mark.parametrize(
    ("kind", "key"),
    [("Boolean", "boolean-false"), ("String", "string-empty"), ("Int", "integer-zero")],
)
async def test_v2_sends_a_zero_value(client: Client, kind: str, key: str) -> None:
    assert "value" in await Evaluator("v2", client.channel).resolve(kind, key)


MISMATCH = "Type mismatch error: The flag's value is of type {}, not {}"
FAILURES: dict[str, tuple[str, str, dict[str, Any], grpc.StatusCode, str]] = {
    "unknown": ("Boolean", "nope", {}, CODES.NOT_FOUND, "Flag not found"),
    "no key": ("Boolean", "", {}, CODES.NOT_FOUND, "Flag not found"),
    "a key that none can be": ("Boolean", "x" * 300, {}, CODES.NOT_FOUND, "Flag not found"),
    "another set's": ("String", "elsewhere", {}, CODES.NOT_FOUND, "Flag not found"),
    "wrong type": ("String", "boolean", {}, CODES.INVALID_ARGUMENT, MISMATCH.format("boolean", "string")),
    "a float for an integer": ("Int", "float", {}, CODES.INVALID_ARGUMENT, MISMATCH.format("float", "integer")),
    "no variant of it": (
        *("String", "chosen", {"choice": "purple"}, CODES.UNKNOWN),
        "General error: The targeting rule chose 'purple', which is not one of the flag's variants",
    ),
}


@pytest.mark.parametrize("row", FAILURES)
async def test_a_failed_evaluation_has_flagds_status(each: Evaluator, row: str) -> None:
    kind, key, context, code, text = FAILURES[row]
    assert await refused(each.resolve(kind, key, context)) == (code, text)


RETRYING = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "60s",
                "maxBackoff": "60s",
                "backoffMultiplier": 1,
                "retryableStatusCodes": ["NOT_FOUND", "INVALID_ARGUMENT", "UNKNOWN", "RESOURCE_EXHAUSTED"],
            },
        }
    ]
}
"""Like the configuration of flagd's Java provider: what comes without headers is tried again, until the deadline."""


async def test_an_error_comes_at_once_to_a_client_that_would_retry_it(client: Client) -> None:
    async with grpc.aio.insecure_channel(client.target, [("grpc.service_config", json.dumps(RETRYING))]) as channel:
        for evaluator in (Evaluator(version, channel) for version in VERSIONS):
            for kind, key, context, code, text in FAILURES.values():
                assert await refused(evaluator.resolve(kind, key, context)) == (code, text)
            code, _ = await refused(evaluator.resolve("Boolean", "boolean", {"big": "x" * 70_000}))
            assert code is CODES.RESOURCE_EXHAUSTED
            code, _ = await refused(evaluator.events(selecting("team=a")).next())
            assert code is CODES.INVALID_ARGUMENT


async def test_a_status_carries_the_error_code(client: Client) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await Evaluator("v2", client.channel).resolve("Boolean", "nope")
    assert reason_of(caught.value) == "FLAG_NOT_FOUND"


async def test_a_context_over_the_limit_is_refused_but_not_as_a_wrong_type(each: Evaluator) -> None:
    code, text = await refused(each.resolve("Boolean", "boolean", {"big": "x" * 70_000}))
    assert code is CODES.RESOURCE_EXHAUSTED
    assert text == "The context is over 65536 bytes or 5000 fields and list elements"


async def test_a_request_that_is_not_a_message_is_refused_with_our_message(client: Client) -> None:
    deep = b""
    for _ in range(120):  # lists in lists, nested deeper than a parser follows
        deep = b"\x32" + _sized(b"\x0a" + _sized(deep))
    context = b"\x0a" + _sized(b"\x0a\x01x\x12" + _sized(deep))
    for method in ("flagd.evaluation.v2.Service/ResolveBoolean", "flagsvc.v1.FlagService/EvaluateFlag"):
        for body in (b"\xff\xff", b"\x0a\x01\xff", b"\x12" + _sized(context)):
            call = client.channel.unary_unary(f"/{method}")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(body)
            assert caught.value.code() in (CODES.INVALID_ARGUMENT, CODES.NOT_FOUND)
            assert "google" not in (caught.value.details() or "")


def _sized(data: bytes) -> bytes:
    size, prefix = len(data), b""
    while size > 127:
        prefix, size = prefix + bytes((size & 127 | 128,)), size >> 7
    return prefix + bytes((size,)) + data


async def test_a_rule_decides_by_context(each: Evaluator) -> None:
    matched = await each.resolve("String", "by-country", CH)
    assert (matched["value"], matched["variant"], matched["reason"]) == ("#00f", "blue", "TARGETING_MATCH")
    other = await each.resolve("String", "by-country", {"country": "AT"})
    assert (other["value"], other["variant"], other["reason"]) == ("#f00", "red", "DEFAULT")


@pytest.mark.parametrize("key", ["disabled-string", "deprecated", "beta", "beta-no-rule", "disabled-rule"])
async def test_a_disabled_flag_is_an_answer_without_value(each: Evaluator, key: str) -> None:
    found = await each.resolve("String", key, {"country": "AT"})
    assert found == {"reason": "DISABLED", "metadata": {}}


async def test_a_disabled_flag_of_another_type_is_still_disabled(each: Evaluator) -> None:
    assert (await each.resolve("Int", "disabled-string"))["reason"] == "DISABLED"


async def test_beta_is_on_where_its_rule_matches(each: Evaluator) -> None:
    found = await each.resolve("String", "beta", CH)
    assert (found["value"], found["reason"]) == ("#00f", "TARGETING_MATCH")


@pytest.mark.parametrize("key", ["no-default", "no-default-targeted"])
async def test_without_default_variant_the_versions_differ(client: Client, key: str) -> None:
    v1, v2, schema = (Evaluator(version, client.channel) for version in VERSIONS)
    assert await refused(v1.resolve("String", key)) == (CODES.NOT_FOUND, "Flag not found")
    assert await v2.resolve("String", key) == {"reason": "DEFAULT", "metadata": {}}
    assert await schema.resolve("String", key) == {"reason": "FALLBACK", "metadata": {}}


async def test_a_header_selects_the_set_and_metadata_says_so(each: Evaluator) -> None:
    plain = await each.resolve("Boolean", "boolean")
    assert plain["metadata"] == {"team": "web", "rank": 3.0, "live": True}
    for selector in ("flagSetId=other", "source=other", "other"):
        found = await each.resolve("Boolean", "boolean", headers=selecting(selector))
        assert (found["variant"], found["metadata"]["team"]) == ("off", "app")
        red = (await each.resolve("String", "elsewhere", headers=selecting(selector)))["metadata"]
        assert red == ({"flagSetId": "other"} if selector.startswith("flagSetId") else {"source": "other"})
    own = await each.resolve("Boolean", "boolean", headers=selecting("flagSetId=other"))
    assert own["metadata"]["flagSetId"] == "renamed", "the flag's own metadata win"
    default = await each.resolve("Boolean", "boolean", headers=selecting("flagSetId="))
    assert default["metadata"] == plain["metadata"]
    code, _ = await refused(each.resolve("Boolean", "boolean", headers=selecting("flagSetId=nobody")))
    assert code is CODES.NOT_FOUND


async def test_a_selector_by_another_key_is_refused(client: Client) -> None:
    expected = (CODES.INVALID_ARGUMENT, 'invalid selector key "key", valid keys: "flagSetId", "source"')
    v1, headers = Evaluator("v1", client.channel), selecting("key=x")
    assert await refused(v1.resolve("Boolean", "boolean", headers=headers)) == expected
    assert await refused(v1.resolve_all(headers=headers)) == expected
    assert await refused(v1.events(headers).call.read()) == expected


async def test_the_server_adds_to_the_context_and_takes_precedence(client: Client) -> None:
    v1, v2, schema = (Evaluator(version, client.channel) for version in VERSIONS)
    gold = (("x-tier", "gold"),)
    for evaluator in (v1, v2, schema):
        found = await evaluator.resolve("Boolean", "tier", {"tier": "gold"})
        assert found["variant"] == "off", "the configured value wins over the request's"
    for evaluator in (v1, v2):
        assert (await evaluator.resolve("Boolean", "tier", {"tier": "lead"}, gold))["variant"] == "on"
    assert (await schema.resolve("Boolean", "tier", {}, gold))["variant"] == "off", "it reads no headers"
    assert (await v2.resolve("Boolean", "user", {"user": "bob"}, (("x-user", "ann"),)))["variant"] == "on"
    assert (await v2.resolve("Boolean", "user", {"user": "ann"}, (("x-user", ""),)))["variant"] == "on"
    found = await client.evaluate("tier", context=types.EvaluationContext(targeting_key="u"))
    assert found.variant == "off"
    batch = pb.BatchEvaluateFlagsRequest(flag_keys=["tier"])
    answer = await client.stub.BatchEvaluateFlags(batch, metadata=gold)
    assert answer.evaluations[0].variant == "on", "FlagService has the same context"


async def test_options_of_serve_apply_to_evaluations(tmp_path: Path) -> None:
    rule = {"fractional": [["red", 1], ["blue", 1]]}
    rules = {version: compile_rule(rule, "split", fractional_version=version) for version in (2, 3)}
    contexts = ({"targetingKey": f"user-{number}"} for number in range(100))
    asked = next(c for c in contexts if rules[2].evaluate(c, 0) != rules[3].evaluate(c, 0))
    options = ("--context-value", "tier=gold", "--context-value", "x=y", "--context-from-header", "X-User=user")
    with Process("--store", f"sqlite:///{tmp_path}/f.db", *options, "--fractional-version", "2") as process:
        client = Client(process.address)
        await until_serving(client)
        await create(client, *OTHERS[:4], flag("split", COLORS, "red", targeting=rule))
        v2 = Evaluator("v2", client.channel)
        assert (await v2.resolve("Boolean", "tier"))["variant"] == "on"
        assert (await v2.resolve("Boolean", "user", headers=(("x-user", "ann"),)))["variant"] == "on"
        assert (await v2.resolve("String", "split", asked))["variant"] == rules[2].evaluate(asked, 0)
        request = pb.EvaluateFlagRequest(flag_key="split", explain=True)
        request.context.targeting_key = asked["targetingKey"]
        explained = await client.stub.EvaluateFlag(request)
        assert repr(rules[2].evaluate(asked, 0)) in explained.explanation.summary
        await client.channel.close()


async def test_all_flags_of_a_set_are_returned_at_once(client: Client) -> None:
    found = await Evaluator("v1", client.channel).resolve_all(CH)
    flags = found["flags"]
    assert found["metadata"] == {}
    assert flags["boolean"] == {
        "reason": "STATIC",
        "variant": "on",
        "boolValue": True,
        "metadata": {"team": "web", "rank": 3.0, "live": True},
    }
    assert flags["by-country"]["stringValue"] == "#00f"
    assert (flags["integer"]["doubleValue"], flags["float"]["doubleValue"]) == (9_000_000.0, 0.75)
    assert flags["map"]["objectValue"] == MAP_LIST
    assert flags["disabled-string"] == {"reason": "DISABLED", "stringValue": "", "metadata": {}}
    assert flags["beta"]["stringValue"] == "#00f"
    assert {"no-default", "no-default-targeted", "elsewhere"}.isdisjoint(flags)


async def test_a_flag_that_fails_is_listed_as_an_error(client: Client) -> None:
    flags = (await Evaluator("v1", client.channel).resolve_all({"choice": "purple"}))["flags"]
    assert flags["chosen"] == {"reason": "ERROR", "stringValue": "", "metadata": {}}
    assert flags["boolean"]["boolValue"] is True


async def test_all_flags_have_the_selector_in_their_metadata(client: Client) -> None:
    headers = selecting("flagSetId=other")
    found = await Evaluator("v1", client.channel).resolve_all(headers=headers)
    assert found["metadata"] == {"flagSetId": "other"}
    assert found["flags"].keys() == {"boolean", "elsewhere"}
    assert found["flags"]["boolean"]["metadata"] == {"flagSetId": "renamed", "team": "app"}
    assert found["flags"]["elsewhere"]["metadata"] == {"flagSetId": "other"}
    old = await Evaluator("schema", client.channel).resolve_all(headers=headers)
    assert old.keys() == {"flags"}
    assert old["flags"]["elsewhere"] == {"reason": "STATIC", "variant": "red", "stringValue": "#f00"}
    empty = await Evaluator("v1", client.channel).resolve_all(headers=selecting("nobody"))
    assert empty == {"metadata": {"source": "nobody"}}


async def test_a_broken_stored_flag_fails_alone(mongo_database_url: str) -> None:
    documents = [
        {"key": "rule", "name": "r", "status": "ENABLED", "targeting": '{"nope": []}'},
        {"key": "default", "name": "d", "status": "ENABLED", "variants": {"a": "x"}, "defaultVariant": "b"},
        {"key": "list", "name": "l", "status": "ENABLED", "variants": {"a": [1]}, "defaultVariant": "a"},
        {"key": "good", "name": "g", "status": "ENABLED"},
    ]
    with pymongo.MongoClient(mongo_database_url) as mongo:
        mongo.get_default_database().feature_flags.insert_many(documents)
    async with replica(store_url=mongo_database_url) as (client, _):
        await until_serving(client)
        v1 = Evaluator("v1", client.channel)
        code, text = await refused(v1.resolve("Boolean", "rule"))
        assert code is CODES.DATA_LOSS
        assert text.startswith("Error parsing input or configuration: The targeting rule is invalid: $.nope: ")
        code, text = await refused(v1.resolve("String", "default"))
        assert code is CODES.UNKNOWN
        assert text == "General error: The default variant 'b' is not one of the flag's variants"
        assert (await refused(v1.resolve("Object", "list")))[0] is CODES.INVALID_ARGUMENT
        flags = (await v1.resolve_all())["flags"]
        assert flags.keys() == {"rule", "default", "good"}, "a list fits none of the fields"
        assert {key: found["reason"] for key, found in flags.items()} == {
            "rule": "ERROR",
            "default": "ERROR",
            "good": "STATIC",
        }


async def test_calls_are_counted_by_service_and_evaluations_by_reason(client: Client, tmp_path: Path) -> None:
    async with replica(store_url=f"sqlite:///{tmp_path}/counted.db") as (other, server):
        await until_serving(other)
        await create(other, flag("one", SWITCH, "on"))
        for version in ("v1", "v2"):
            await Evaluator(version, other.channel).resolve("Boolean", "one")
        await Evaluator("v1", other.channel).resolve_all()
        page = server._metrics.page().decode()
    assert 'flagsvc_call_seconds_count{code="OK",method="flagd.evaluation.v1.Service/ResolveBoolean"} 1.0' in page
    assert 'flagsvc_call_seconds_count{code="OK",method="flagd.evaluation.v2.Service/ResolveBoolean"} 1.0' in page
    assert 'flagsvc_call_seconds_count{code="OK",method="CreateFlag"} 1.0' in page
    assert 'flagsvc_evaluations_total{error_code="",reason="STATIC"} 3.0' in page


async def test_past_the_bound_values_are_stale_and_errors_are_not(mongod: Mongod) -> None:
    url = mongod.database_url("stale")
    async with replica(store_url=url, staleness_bound_s=1.0, store_timeout_s=0.3) as (client, server):
        await until_serving(client)
        await create(client, *FLAGS)
        mongod.kill()
        await until(lambda: not server.replica.follower.store_up)
        await asyncio.sleep(1.1)
        v1, v2, _ = (Evaluator(version, client.channel) for version in VERSIONS)
        found = await v2.resolve("Boolean", "boolean")
        assert (found["value"], found["reason"]) == (True, "STALE")
        assert (await v2.resolve("String", "disabled-string"))["reason"] == "DISABLED"
        assert (await v2.resolve("String", "beta"))["reason"] == "DISABLED"
        assert (await v2.resolve("String", "no-default"))["reason"] == "DEFAULT"
        assert (await refused(v1.resolve("String", "no-default")))[0] is CODES.NOT_FOUND
        flags = (await v1.resolve_all())["flags"]
        assert (flags["boolean"]["reason"], flags["disabled"]["reason"]) == ("STALE", "DISABLED")
        assert "no-default" not in flags


async def test_before_the_first_load_a_caller_is_asked_to_retry(mongod: Mongod) -> None:
    url = mongod.database_url("unknown")
    mongod.kill()
    async with replica(store_url=url, store_timeout_s=0.3) as (client, _):
        code, text = await refused(Evaluator("v2", client.channel).resolve("Boolean", "boolean"))
        assert (code, text) == (CODES.UNAVAILABLE, "Provider not ready")
        assert (await refused(Evaluator("v1", client.channel).resolve_all()))[0] is CODES.UNAVAILABLE
