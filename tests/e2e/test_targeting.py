"""Targeting through FlagService: written, stored, announced and evaluated, on SQLite and on MongoDB with Redis."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

import grpc
import pymongo
import pytest

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.replicas import Client, detail_of, replica, until_serving
from tests.servers import RedisServer

V = types.Value
COLORS = {name: V(string_value=value) for name, value in (("red", "#f00"), ("blue", "#00f"), ("green", "#0f0"))}
STAFF = {"staff": json.dumps({"ends_with": [{"var": "email"}, "@faas.com"]})}
SPLIT = {"if": [{"$ref": "staff"}, {"fractional": [{"var": "email"}, ["blue", 50], ["green", 50]]}, None]}


def context(targeting_key: str = "", **attributes: Any) -> types.EvaluationContext:
    kinds = {str: "string_value", bool: "boolean_value", int: "integer_value", float: "float_value"}
    packed = {n: V(**{kinds[type(v)]: v}) if not isinstance(v, V) else v for n, v in attributes.items()}
    return types.EvaluationContext(targeting_key=targeting_key, attributes=packed)


@pytest.fixture(scope="module", params=["sqlite", pytest.param("mongo", marks=pytest.mark.mongod)])
async def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    """One replica for the tests here; on MongoDB with a Redis that no other test empties."""
    with ExitStack() as stack:
        settings = {"store_url": f"sqlite:///{tmp_path_factory.mktemp('targeting')}/flags.db"}
        if request.param == "mongo":
            cache = stack.enter_context(RedisServer())
            store = stack.enter_context(request.getfixturevalue("databases").one())
            settings = {"store_url": store, "cache_url": cache.url}
        async with replica(**settings) as (client, _):
            await until_serving(client)
            yield client


@pytest.fixture
async def client(shared: Client) -> AsyncIterator[Client]:
    yield shared
    await shared.delete_all()


async def colors(client: Client, rule: Any = SPLIT, **fields: Any) -> types.Flag:
    given = {"status": types.FLAG_STATUS_ENABLED, "default_variant": "red", "evaluators": STAFF} | fields
    return await client.create("color", variants=COLORS, targeting=json.dumps(rule), **given)


async def test_a_rule_applies_to_those_it_matches(client: Client) -> None:
    await colors(client)
    matched = await client.evaluate("color", context=context(email="ann@faas.com"))
    assert (matched.reason, matched.variant) == (types.REASON_TARGETING_MATCH, "blue")
    assert matched.value.string_value == "#00f"
    other = await client.evaluate("color", context=context(email="ann@else.com"))
    assert (other.reason, other.variant) == (types.REASON_DEFAULT, "red")
    nobody = await client.evaluate("color")
    assert (nobody.reason, nobody.variant) == (types.REASON_DEFAULT, "red")


async def test_a_rule_is_returned_as_it_was_written(client: Client) -> None:
    created = await colors(client)
    assert json.loads(created.targeting) == SPLIT
    read = (await client.stub.GetFlag(pb.GetFlagRequest(flag_key="color"))).flag
    assert (read.targeting, read.evaluators) == (created.targeting, STAFF | {"staff": created.evaluators["staff"]})
    history = (await client.stub.ListFlagHistory(pb.ListFlagHistoryRequest(flag_key="color"))).entries
    assert history[0].new_value.object_value.fields["targeting"].string_value == created.targeting


async def test_the_next_evaluation_uses_a_changed_rule(client: Client) -> None:
    await colors(client)
    ann = context(email="ann@faas.com")
    assert (await client.evaluate("color", context=ann)).variant == "blue"
    flag = types.Flag(key="color", targeting=json.dumps({"if": [{"$ref": "staff"}, "green"]}), evaluators=STAFF)
    request = pb.UpdateFlagRequest(flag=flag)
    request.update_mask.paths.extend(["targeting", "evaluators"])
    await client.stub.UpdateFlag(request)
    assert (await client.evaluate("color", context=ann)).variant == "green"
    request = pb.UpdateFlagRequest(flag=types.Flag(key="color"))
    request.update_mask.paths.append("targeting")
    assert (await client.stub.UpdateFlag(request)).flag.targeting == ""
    assert (await client.evaluate("color", context=ann)).reason == types.REASON_STATIC


async def test_beta_is_for_those_whom_targeting_matches(client: Client) -> None:
    rule = {"if": [{"==": [{"var": "plan"}, "beta"]}, "on"]}
    await client.create("new", status=types.FLAG_STATUS_BETA, targeting=json.dumps(rule))
    matched = await client.evaluate("new", context=context(plan="beta"))
    assert (matched.reason, matched.value.boolean_value) == (types.REASON_TARGETING_MATCH, True)
    assert not matched.enabled  # the existing system's isEnabled does not know beta
    other = await client.evaluate("new", context=context(plan="free"))
    assert (other.reason, other.HasField("value")) == (types.REASON_DISABLED, False)


async def test_enabled_follows_the_value_for_that_context(client: Client) -> None:
    rule = {"if": [{"==": [{"var": "plan"}, "pro"]}, "on", "off"]}
    await client.create("pro-only", status=types.FLAG_STATUS_ENABLED, targeting=json.dumps(rule))
    assert (await client.evaluate("pro-only", context=context(plan="pro"))).enabled
    assert not (await client.evaluate("pro-only", context=context(plan="free"))).enabled


async def test_a_batch_has_one_context_for_all(client: Client) -> None:
    await colors(client)
    await client.create("plain", status=types.FLAG_STATUS_ENABLED, sort_order=-1)
    request = pb.BatchEvaluateFlagsRequest(context=context(email="ann@faas.com"))
    answers = (await client.stub.BatchEvaluateFlags(request)).evaluations
    assert [(e.flag_key, e.variant) for e in answers] == [("plain", "on"), ("color", "blue")]


async def test_the_targeting_key_splits_and_wins_over_an_attribute_of_its_name(client: Client) -> None:
    await colors(client, {"fractional": [["blue", 50], ["green", 50]]})
    by_key = {k: (await client.evaluate("color", context=context(k))).variant for k in map(str, range(40))}
    assert set(by_key.values()) == {"blue", "green"}
    for key, variant in list(by_key.items())[:5]:
        assert (await client.evaluate("color", context=context(key, targetingKey="other"))).variant == variant
        assert (await client.evaluate("color", context=context("", targetingKey=key))).variant == variant


async def test_an_explanation_has_the_steps_taken_and_the_fields_read(client: Client) -> None:
    await colors(client)
    request = pb.EvaluateFlagRequest(flag_key="color", context=context(email="ann@faas.com", unused=1), explain=True)
    response = await client.stub.EvaluateFlag(request)
    assert response.evaluation.variant == "blue"
    explained = response.explanation
    assert explained.context_read["email"].string_value == "ann@faas.com"
    assert "unused" not in explained.context_read
    steps = [(s.path, s.operator, s.depth) for s in explained.steps if s.operator != "var"]
    assert steps == [
        ("$.if", "if", 0),
        ('$["$evaluators"].staff.ends_with', "ends_with", 1),
        ("$.if[1].fractional", "fractional", 1),
    ]
    assert "bucket" in explained.steps[-2].note
    assert not (await client.stub.EvaluateFlag(pb.EvaluateFlagRequest(flag_key="color"))).HasField("explanation")


@pytest.mark.parametrize(
    ("key", "summary"), [("nope", "not found"), ("off", "DISABLED"), ("plain", "no targeting"), ("beta", "BETA")]
)
async def test_an_explanation_without_a_rule_has_the_reason(client: Client, key: str, summary: str) -> None:
    await client.create("off")
    await client.create("plain", status=types.FLAG_STATUS_ENABLED)
    await client.create("beta", status=types.FLAG_STATUS_BETA)
    response = await client.stub.EvaluateFlag(pb.EvaluateFlagRequest(flag_key=key, explain=True))
    assert summary in response.explanation.summary
    assert not response.explanation.steps


WRONG_RULES = {
    "unknown operator": ({"if": [{"nope": 1}, "red"]}, "flag.targeting.if[0].nope"),
    "arity": ({"if": [{"==": [1]}, "red"]}, 'flag.targeting.if[0]["=="]'),
    "reference": ({"if": [{"$ref": "nobody"}, "red"]}, 'flag.targeting.if[0]["$ref"]'),
    "weight": ({"fractional": [["red", -1]]}, "flag.targeting.fractional[0][1]"),
    "choice": ({"if": [True, "purple"]}, "flag.targeting.if[1]"),
}


@pytest.mark.parametrize("row", WRONG_RULES)
async def test_an_invalid_rule_is_refused_with_its_location(client: Client, row: str) -> None:
    rule, field = WRONG_RULES[row]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await colors(client, rule)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [v.field for v in detail_of(caught.value, "BadRequest").field_violations] == [field]
    assert (await client.evaluate("color")).error_code == types.ERROR_CODE_FLAG_NOT_FOUND


async def test_a_stored_rule_that_does_not_compile_affects_only_its_flag(
    mongo_database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = [
        {"key": "bad", "name": "bad", "status": "ENABLED", "targeting": '{"nope": []}'},
        {"key": "worse", "name": "worse", "status": "ENABLED", "targeting": 7},
        {"key": "object", "name": "object", "status": "ENABLED", "targeting": {"if": [{"var": "x"}, "off", "on"]}},
        {"key": "good", "name": "good", "status": "ENABLED"},
    ]
    with pymongo.MongoClient(mongo_database_url) as mongo:
        mongo.get_default_database().feature_flags.insert_many(documents)
    async with replica(store_url=mongo_database_url) as (client, server):
        await until_serving(client)
        assert (await client.evaluate("bad")).error_code == types.ERROR_CODE_PARSE_ERROR
        assert (await client.evaluate("worse")).error_code == types.ERROR_CODE_GENERAL
        assert (await client.evaluate("good")).enabled
        assert (await client.evaluate("object", context=context(x=True))).variant == "off"
        await client.toggle("good", True)
        [problem] = server.replica.status().problems
        assert problem.name == "odd_flag"
        assert (
            "here 1: 'bad' of flag set 'default': The targeting rule is odd: $.nope: unknown operator" in problem.detail
        )
        assert capsys.readouterr().out.count("odd_flag") == 1
        await client.toggle("bad", False)
        assert server.replica.status().problems == ()


async def test_another_replica_receives_a_new_rule(mongo_database_url: str, redis_clean_url: str) -> None:
    settings = {"store_url": mongo_database_url, "cache_url": redis_clean_url}
    async with replica(**settings) as (one, _), replica(**settings) as (two, _):
        await until_serving(one)
        await until_serving(two)
        created = await colors(one)
        for _ in range(500):
            found = await two.evaluate("color", context=context(email="ann@faas.com"))
            if found.revision >= created.revision:
                break
        assert found.variant == "blue"
    async with replica(**settings, near_cache_entries=0) as (reader, _):
        await until_serving(reader)
        found = await reader.evaluate("color", context=context(email="ann@faas.com"))
        assert (found.variant, found.source) == ("blue", types.DEFINITION_SOURCE_CACHE)


async def test_a_context_may_have_anything_and_only_what_is_read_counts(client: Client) -> None:
    rule = {"if": [{"in": ["a", {"var": "list"}]}, "blue", {"if": [{"var": "deep.x.0"}, "green", "red"]}]}
    await colors(client, rule)
    nested = V(list_value=types.ListValue(values=[V(string_value="a"), V(null_value=0)]))
    assert (await client.evaluate("color", context=context(list=nested))).variant == "blue"
    inner = V(list_value=types.ListValue(values=[V(boolean_value=True)]))
    deep = V(object_value=types.ObjectValue(fields={"x": inner}))
    assert (await client.evaluate("color", context=context(deep=deep))).variant == "green"
    for value in (1, 1.5, float("nan"), True, "", V(null_value=0)):
        answer = await client.evaluate("color", context=context(list=value, deep=value))
        assert answer.reason == types.REASON_TARGETING_MATCH, value


async def test_a_context_that_cannot_be_read_is_refused_by_name(client: Client) -> None:
    await colors(client, {"if": [{"var": "x"}, "blue"]})
    deep = V(integer_value=1)
    for _ in range(25):
        deep = V(list_value=types.ListValue(values=[deep]))
    for value, field in ((V(), "context.attributes[x]"), (deep, "context.attributes[x]" + "[0]" * 25)):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.evaluate("color", context=context(x=value))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert [v.field for v in detail_of(caught.value, "BadRequest").field_violations] == [field]


async def test_a_write_and_an_explanation_note_what_is_valid_and_most_likely_not_meant(client: Client) -> None:
    rule = json.dumps({"fractional": [["on", 1], ["off", 99]]})
    flag = types.Flag(key="rollout", status=types.FLAG_STATUS_ENABLED, targeting=rule)
    noted = 'callers without a targeting key get the default variant, "on"'
    created = await client.stub.CreateFlag(pb.CreateFlagRequest(flag=flag))
    assert [noted in note for note in created.notes] == [True]
    explained = await client.stub.EvaluateFlag(pb.EvaluateFlagRequest(flag_key="rollout", explain=True))
    assert [noted in note for note in explained.explanation.notes] == [True]
    flag.targeting = json.dumps({"or": [json.loads(rule), "off"]})
    updated = await client.stub.UpdateFlag(pb.UpdateFlagRequest(flag=flag, update_mask={"paths": ["targeting"]}))
    assert list(updated.notes) == []
