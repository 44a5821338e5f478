# ruff: noqa: T201  the number of comparisons is read with -rP
"""A local client answers what its server answers: random flags and contexts, each bucketing, configured context."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from flagsvc_client import ErrorCode, EvaluationContext, Flag, FlagServiceError, Reason, Status
from flagsvc_client.client_events import Events
from flagsvc_client.local.flag_set import LocalFlagSet
from flagsvc_client.local.settings import EvaluationSettings
from flagsvc_client.local.updater import LocalUpdater
from flagsvc_client.stubs.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc_client.stubs.flagsvc.v1 import types_pb2 as types
from flagsvc_client.wire_contexts import LIMITS

from flagsvc.core.evaluation import RULES
from flagsvc.core.json_values import MAX_DEPTH
from flagsvc.core.validation import MAX_CONTEXT_BYTES, MAX_CONTEXT_VALUES
from tests.client.forms import FORMS, Asked, asked
from tests.property.rules import Maker
from tests.property.values import KINDS
from tests.replicas import Client, replica

CASES = int(os.environ.get("LOCAL_CASES", "600"))
VALUES = {"region": "north", "email": "all@example.org", "tier": "gold"}
SAME = ("flag_key", "value", "variant", "reason", "error_code", "error_message", "flag_metadata", "revision", "enabled")


async def created(network: Asked, direct: Client, version: int) -> list[str]:
    """Create random flags in a set of a version; return their keys. What the server refuses is left out."""
    await direct.stub.SetBucketing(pb.SetBucketingRequest(bucketing=version, force=True))
    keys = []
    for number, case in enumerate(Maker(version).cases(max(20, CASES // 30))):
        rule = case.rule if number % 2 else {"fractional": [{"var": "email"}, ["a", 50], ["b", 50]]}
        if "timestamp" in json.dumps([rule, case.evaluators]):
            continue  # two evaluations may be in two seconds
        flag = Flag(
            key=f"{case.flag_key}-{number}",
            status=Status.ENABLED,
            variants=KINDS[case.kind] if number % 2 else {"a": "a", "b": "b"},
            default_variant=None,
            targeting=json.dumps(rule),
            evaluators={name: json.dumps(each) for name, each in case.evaluators.items()},
        )
        with contextlib.suppress(FlagServiceError):
            await network.create(flag)
            keys.append(flag.key)
    return keys


@pytest.mark.parametrize("version", [2, 3])
async def test_random_flags_and_contexts_have_one_answer(version: int, tmp_path: Path) -> None:
    values = ",".join(f"{name}={value}" for name, value in VALUES.items())
    async with (
        replica(store_url=f"sqlite:///{tmp_path}/flags.db", context_values=values) as (direct, server),
        asked("aio", f"127.0.0.1:{server.port}", timeout_s=10.0) as network,
    ):
        keys = await created(network, direct, version)
        async with asked("aio", f"127.0.0.1:{server.port}", local=True) as local:
            assert await local.wait_ready()
            compared = 0
            for number, case in enumerate(Maker(version + 10).cases(CASES // len(keys) + 1)):
                context = {**case.context, "targetingKey": f"user-{number}"} if number % 3 else case.context
                there, here = await network.batch(keys, context), await local.batch(keys, context)
                for key in keys:
                    assert [repr(getattr(there[key], n)) for n in SAME] == [repr(getattr(here[key], n)) for n in SAME]
                compared += len(keys)
    assert compared >= CASES
    print(f"bucketing {version}: {compared} answers compared, 0 differ")


@pytest.mark.parametrize("form", FORMS)
async def test_the_servers_context_values_and_the_sets_bucketing_reach_a_local_client(
    form: str, tmp_path: Path
) -> None:
    """Findings A2: 66 of 100 users differed, and so did the configured region."""
    file = tmp_path / "flags.snapshot"
    store = f"sqlite:///{tmp_path}/flags.db"
    async with replica(store_url=store, context_values="region=north") as (direct, server):
        target = f"127.0.0.1:{server.port}"
        async with asked(form, target, timeout_s=5.0) as network, asked(form, target, local=True) as local:
            rule = '{"if": [{"==": [{"var": "region"}, "north"]}, "off", "on"]}'
            await network.create(Flag(key="region", status=Status.ENABLED, targeting=rule))
            await network.create(Flag(key="half", status=Status.ENABLED, targeting='{"fractional":[["on"],["off"]]}'))
            answers = []
            for version in (2, 3):
                report = await direct.stub.SetBucketing(pb.SetBucketingRequest(bucketing=version, force=True))
                assert report.done
                users = [EvaluationContext(f"user-{number}", {"region": "south"}) for number in range(100)]
                there = [(await network.batch(["half", "region"], user)) for user in users]
                least = report.revision
                here = [
                    [await local.details(key, user, default=False, min_revision=least) for key in ("half", "region")]
                    for user in users
                ]
                assert [[d.variant for d in each.values()] for each in there] == [[d.variant for d in e] for e in here]
                answers.append([each[0].variant for each in here])
                assert {each[1].variant for each in here} == {"off"}
            assert answers[0] != answers[1]
        async with asked(form, target, local=True, snapshot_file=file) as local:
            assert await local.wait_ready()
    async with asked(form, "127.0.0.1:1", local=True, snapshot_file=file) as alone:
        found = [await alone.details("half", user, default=False) for user in users]
        assert [each.variant for each in found] == answers[1]
        assert (await alone.details("region", users[0], default=True)).variant == "off"


def updater() -> LocalUpdater:
    return LocalUpdater("default", LocalFlagSet(30.0), Events(None), None)


@pytest.mark.parametrize(
    ("settings", "why"),
    [(None, "older release"), (pb.EvaluationSettings(requires=[RULES, "rules-9"]), "would have to know 'rules-9'")],
)
def test_a_stream_that_cannot_be_evaluated_rightly_is_refused(settings: Any, why: str) -> None:
    local = updater()
    flags = [types.Flag(key="a", status=types.FLAG_STATUS_ENABLED, revision=1)]
    message = pb.WatchFlagsResponse(snapshot=pb.FlagSnapshot(flags=flags), resume_revision=1, evaluation=settings)
    with pytest.raises(FlagServiceError, match=why) as refused:
        local.apply(message)
    local.stream_ended(refused.value)
    assert not local.flags.complete
    assert local.events.state == "error"
    found = local.flags.details("a", None, False)
    assert found is not None
    assert found.error_code is ErrorCode.PROVIDER_NOT_READY


def test_a_later_stream_is_refused_too_and_what_is_known_is_stale() -> None:
    local = updater()
    good = pb.WatchFlagsResponse(snapshot=pb.FlagSnapshot(), evaluation=pb.EvaluationSettings(requires=[RULES]))
    local.apply(good)
    local.apply(pb.WatchFlagsResponse(heartbeat=pb.Heartbeat()))
    assert local.events.state == "ready"
    local.stream_began()
    with pytest.raises(FlagServiceError, match="older release") as refused:
        local.apply(pb.WatchFlagsResponse(heartbeat=pb.Heartbeat()))
    local.stream_ended(refused.value)
    assert local.events.state == "stale"


def test_a_flag_of_an_unknown_bucketing_is_not_evaluated() -> None:
    local, rule = updater(), '{"fractional": [["on", 1], ["off", 1]]}'
    flag = types.Flag(key="a", status=types.FLAG_STATUS_ENABLED, revision=1, targeting=rule, bucketing=4)
    settings = pb.EvaluationSettings(requires=[RULES])
    local.apply(pb.WatchFlagsResponse(snapshot=pb.FlagSnapshot(flags=[flag]), evaluation=settings))
    found = local.flags.details("a", {"targetingKey": "u"}, False)
    assert found is not None
    assert (found.error_code, found.error_message) == (
        ErrorCode.PARSE_ERROR,
        "Bucketing 4 is unknown to this release",
    )


def test_the_clients_limits_are_the_servers() -> None:
    assert LIMITS == (MAX_CONTEXT_BYTES, MAX_CONTEXT_VALUES, MAX_DEPTH)
    assert EvaluationSettings().limits == LIMITS


class Raising(dict[str, Any]):
    """A mapping whose fields cannot be read."""

    def items(self) -> Any:
        raise KeyError("secret")


class Endless(dict[str, Any]):
    """A mapping that never ends."""

    def items(self) -> Any:
        number = 0
        while True:
            yield f"n{number}", number
            number += 1


def circular() -> dict[str, Any]:
    context: dict[str, Any] = {"plan": "pro"}
    context["me"] = context
    return context


def deep(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


ODD: dict[str, tuple[Any, str]] = {
    "contains itself": (circular(), "context[me]"),
    "deep": ({"a": deep(25)}, "context[a][0]"),
    "very deep": ({"a": deep(100_000)}, "context[a][0]"),
    "items raises": (Raising(a=1), "context cannot be read: KeyError"),
    "items of a field raises": ({"a": {"b": Raising(c=1)}}, "context[a][b] cannot be read: KeyError"),
    "endless": (Endless(), "context is 'more fields'"),
    "a number as a key": ({"a": {5: "x"}}, "context[a] has the key 5; keys must be str"),
    "half a surrogate": ({"a": ["\ud800"]}, "context[a][0] contains a lone surrogate"),
    "half a surrogate in a key": ({"\ud800": 1}, "context[\\ud800] contains a lone surrogate"),
    "half a surrogate as targeting key": ({"targetingKey": "\ud800"}, "context[targetingKey] contains a lone"),
    "a number as targeting key": ({"targetingKey": 5}, "context[targetingKey] is a int"),
    "a huge number": ({"a": 2**70}, "context[a] is 1180591620717411303424"),
    "not a number": ({"a": float("nan")}, "context[a] is nan"),
    "an object": ({"a": {"b": object()}}, "context[a][b] is a object"),
    "a text": ("gold", "context is a str"),
    "many values": ({"a": [0] * 5_000}, "context is 'more fields'; it must be at most 5000 fields and list elements"),
    "large": ({"a": "x" * 66_000}, "bytes'; it must be at most 65536 bytes serialized"),
    "larger than a request": ({"a": "ü" * 100_000}, "bytes'; it must be at most 65536 bytes serialized"),
    "no mapping of attributes": (EvaluationContext("u", [1]), "context is a list"),  # type: ignore[arg-type]
}


@pytest.fixture(scope="module")
async def target(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    async with replica(store_url=f"sqlite:///{tmp_path_factory.mktemp('odd')}/flags.db") as (direct, server):
        rule = '{"if": [{"==": [{"var": "plan"}, "pro"]}, "on", "off"]}'
        await direct.create("vip", status=types.FLAG_STATUS_ENABLED, targeting=rule)
        yield f"127.0.0.1:{server.port}"


@pytest.mark.parametrize("form", FORMS)
async def test_no_context_makes_an_evaluation_raise_and_both_clients_say_the_same(form: str, target: str) -> None:
    async with asked(form, target, timeout_s=5.0) as network, asked(form, target, local=True) as local:
        assert await local.wait_ready()
        for name, (context, words) in ODD.items():
            messages = set()
            for client in (network, local):
                found = await client.details("vip", context, default=True)
                assert (found.value, found.reason, found.error_code) == (True, Reason.ERROR, ErrorCode.INVALID_CONTEXT)
                messages.add(found.error_message)
                assert await client.is_enabled("vip", context, True) is True
                assert await client.get_bool("vip", context, default=True) is True
                assert await client.get_str("vip", context, default="d") == "d"
                assert await client.get_int("vip", context, default=7) == 7
                assert await client.get_float("vip", context, default=7.5) == 7.5
                assert await client.get_object("vip", context, default={"d": 1}) == {"d": 1}
                batch = await client.batch(["vip"], context)
                assert (batch["vip"].error_code, batch["vip"].value) == (ErrorCode.INVALID_CONTEXT, None)
            [message] = messages
            assert words in message, name
            assert "secret" not in message


@pytest.mark.parametrize("form", FORMS)
async def test_the_largest_contexts_are_taken_by_both(form: str, target: str) -> None:
    most = {"a": deep(24), "plan": "pro"}
    size = types.EvaluationContext()
    size.attributes["plan"].string_value = "pro"
    size.attributes["a"].string_value = "x" * 60_000
    long = {"plan": "pro", "a": "x" * (60_000 + MAX_CONTEXT_BYTES - size.ByteSize())}
    async with asked(form, target, timeout_s=5.0) as network, asked(form, target, local=True) as local:
        assert await local.wait_ready()
        for client in (network, local):
            for context in (most, long, {"plan": "pro", "l": [0] * 4_998}):
                assert await client.get_bool("vip", context, default=False) is True
            found = await client.details("vip", {**long, "a": long["a"] + "x"}, default=False)
            assert f"'{MAX_CONTEXT_BYTES + 1} bytes'" in found.error_message
