"""Every way to ask a server about a flag with prerequisites, and what its watchers hear of its parents."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flagsvc.api.ofrep.responses import evaluation_body
from flagsvc.core.evaluation import Outcome, Reason, explain
from flagsvc.core.model import Flag, FlagId, Status
from flagsvc.generated.flagd.sync.v1 import sync_pb2 as sync
from flagsvc.generated.flagd.sync.v1 import sync_pb2_grpc as sync_grpc
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import schedule_service_pb2 as spb
from flagsvc.generated.flagsvc.v1 import schedule_service_pb2_grpc as spb_grpc
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.ports import Entry
from flagsvc.serving.reader import Evaluation
from flagsvc.view.entries import Source
from flagsvc.view.near_cache import NearCache
from tests.flagd_clients import VERSIONS, Evaluator
from tests.ofrep.asking import Asked, asking

ON, FAILED = types.FLAG_STATUS_ENABLED, "prerequisiteFailed"


def needing(*parents: str) -> list[types.Prerequisite]:
    return [types.Prerequisite(flag_key=each, variants=["on"]) for each in parents]


@pytest.fixture
async def served(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Asked]:
    family = (
        types.Flag(key="top", status=ON, exposure=types.EXPOSURE_PUBLIC),
        types.Flag(key="middle", status=ON, prerequisites=needing("top")),
        types.Flag(key="child", status=ON, prerequisites=needing("middle"), exposure=types.EXPOSURE_PUBLIC),
        types.Flag(key="other", status=ON),
    )
    async with asking(tmp_path / "flags.db", family, **getattr(request, "param", {})) as asked:
        yield asked


@pytest.mark.parametrize("served", [{}, {"transport": "native"}], ids=["grpcio", "native"], indirect=True)
async def test_every_protocol_answers_the_same_before_and_after_a_parent_changes(served: Asked) -> None:
    evaluators = [Evaluator(version, served.grpc.channel) for version in VERSIONS]
    for value in (True, False, True):
        await served.grpc.toggle("top", value)
        one = await served.grpc.evaluate("child")
        failed = {} if value else {FAILED: types.Value(string_value="middle")}
        assert (one.variant, dict(one.flag_metadata)) == ("on" if value else "", failed)
        assert one.reason == (types.REASON_DEFAULT if value else types.REASON_DISABLED)
        assert one.enabled is value
        for keys in ([], ["child", "middle", "top"]):
            for _ in range(3):  # the third answer is a remembered one
                request = pb.BatchEvaluateFlagsRequest(flag_keys=keys)
                batch = (await served.grpc.stub.BatchEvaluateFlags(request, timeout=5)).evaluations
                of_key = {each.flag_key: each for each in batch}
                assert {key: of_key[key].variant for key in ("child", "middle", "top")} == dict.fromkeys(
                    ("child", "middle", "top"), "on" if value else ""
                )
                assert dict(of_key["child"].flag_metadata) == failed
                above = {} if value else {FAILED: types.Value(string_value="top")}
                assert dict(of_key["middle"].flag_metadata) == above
        for evaluator in evaluators:
            found = await evaluator.resolve("Boolean", "child")
            assert found["reason"] == ("DEFAULT" if value else "DISABLED")
            assert found.get("metadata", {}) == ({} if value else {FAILED: "middle"})
        for _ in range(3):
            whole = (await evaluators[0].resolve_all())["flags"]["child"]
            assert (whole["reason"], whole.get("variant")) == (("DEFAULT", "on") if value else ("DISABLED", None))
            assert whole["metadata"] == ({} if value else {FAILED: "middle"})
        body = (await served.one("child")).json()
        assert (body.get("value"), body["metadata"]) == ((True, {}) if value else (None, {FAILED: "middle"}))


async def test_an_answer_names_the_prerequisite_that_fails_now(served: Asked) -> None:
    await served.grpc.create("both", status=ON, prerequisites=needing("top", "other"))
    evaluator = Evaluator("v1", served.grpc.channel)
    for failed in ("other", "top") * 2:
        await served.grpc.toggle("top", failed != "top")
        await served.grpc.toggle("other", failed != "other")
        for _ in range(2):  # the second is encoded already
            assert dict((await served.grpc.evaluate("both")).flag_metadata) == {
                FAILED: types.Value(string_value=failed)
            }
            assert (await evaluator.resolve("Boolean", "both"))["metadata"] == {FAILED: failed}
            body = (await served.one("both")).json()
            assert body["metadata"] == {FAILED: failed}


async def test_an_ofrep_etag_changes_with_a_parent_and_streams_hear_of_it(served: Asked) -> None:
    async with served.events() as stream:
        await stream.event()
        before = await served.all()
        assert (await served.all(If_None_Match=before.headers["etag"])).status_code == 304
        await served.grpc.toggle("top", False)
        event = await stream.event()
        after = await served.all({}, {"flagConfigEtag": event["etag"]}, If_None_Match=before.headers["etag"])
        assert after.status_code == 200
        [child] = [each for each in after.json()["flags"] if each["key"] == "child"]
        assert (child["reason"], child["metadata"]) == ("DISABLED", {FAILED: "middle"})


@pytest.mark.parametrize("version", ["v1", "schema"])
async def test_flagds_event_streams_name_all_that_depend_on_what_changed(served: Asked, version: str) -> None:
    events = Evaluator(version, served.grpc.channel).events()
    assert await events.next() == ("provider_ready", {})
    kind, missed = await events.next()
    assert (kind, set(missed)) == ("configuration_change", {"top", "middle", "child", "other"})
    await served.grpc.toggle("top", False)
    heard: dict[str, str] = {}
    async with asyncio.timeout(10):
        while heard.keys() != {"top", "middle", "child"}:
            heard |= (await events.next())[1]
    assert set(heard.values()) == {"update"}


async def test_flagds_sync_streams_send_what_depends_on_a_change_again(served: Asked) -> None:
    stream = sync_grpc.FlagSyncServiceStub(served.grpc.channel).SyncFlags(sync.SyncFlagsRequest(), timeout=10)
    for value in (True, False, True):
        await served.grpc.toggle("top", value)
        wanted = "ENABLED" if value else "DISABLED", {"if": [value, "on"]}
        while await child_in(stream) != wanted:
            pass
    stream.cancel()


async def child_in(stream: Any) -> tuple[str, Any]:
    child = json.loads((await stream.read()).flag_configuration)["flags"]["child"]
    return child["state"], child["targeting"]


async def test_public_listeners_hear_of_public_children_of_inner_flags(served: Asked) -> None:
    heard: list[str] = []
    near = served.server.replica.near
    near.changelogs.listen(
        "default", lambda entry, _mark, _kind: heard.append(entry.id.key), only_public=True, of_values=True
    )
    await served.grpc.toggle("middle", False)
    await served.server.replica.child_changes.announce()
    assert set(heard) == {"child"}


def test_a_public_caller_gets_no_names_of_other_flags() -> None:
    child = flag("child", 1, "inner")
    for outcome in (Outcome(Reason.DISABLED, failed_prerequisite="inner"), explain(child, {}, 0.0)[0]):
        named = replace(outcome, message=outcome.message and "they depend on themselves: inner -> inner")
        found = Evaluation(child.id, named, child, 1, Source.NEAR, 0.0)
        assert "inner" in json.dumps(evaluation_body(found, {}))
        assert "inner" not in json.dumps(evaluation_body(found, {}, for_public=True))


async def test_an_explanation_says_what_each_prerequisite_was(served: Asked) -> None:
    request = pb.EvaluateFlagRequest(flag_key="child", explain=True)
    found = (await served.grpc.stub.EvaluateFlag(request, timeout=5)).explanation
    assert found.summary == "The flag has no targeting: variant 'on' for everybody"
    assert list(found.notes) == ["The prerequisite 'middle' is met: its variant is 'on'"]
    await served.grpc.toggle("top", False)
    answer = await served.grpc.stub.EvaluateFlag(request, timeout=5)
    assert answer.explanation.summary == "The prerequisite 'middle' is not met: as if disabled"
    why = "it has no variant, since its own prerequisite 'top' is not met; needed is 'on'"
    assert list(answer.explanation.notes) == [f"The prerequisite 'middle' is not met: {why}"]
    assert answer.evaluation.reason == types.REASON_DISABLED


async def test_another_moment_has_the_parents_of_that_moment(served: Asked) -> None:
    was = (await served.grpc.evaluate("other")).revision
    await served.grpc.toggle("top", False)
    for number, variant in ((was, "on"), (was + 1, "")):
        request = pb.EvaluateFlagRequest(flag_key="child", as_of=types_as_of(number), explain=True)
        found = await served.grpc.stub.EvaluateFlag(request, timeout=5)
        assert (found.evaluation.variant, len(found.explanation.notes)) == (variant, 1)
        for keys in (["child"], []):
            batch = pb.BatchEvaluateFlagsRequest(flag_keys=keys, as_of=types_as_of(number))
            answered = (await served.grpc.stub.BatchEvaluateFlags(batch, timeout=5)).evaluations
            assert {each.flag_key: each.variant for each in answered}["child"] == variant


def types_as_of(revision: int) -> Any:
    return pb.EvaluateFlagRequest(as_of={"revision": revision}).as_of


async def test_a_moment_to_come_has_what_is_planned_for_the_parents(served: Asked) -> None:
    schedules = spb_grpc.ScheduleServiceStub(served.grpc.channel)
    at = datetime.now(UTC) + timedelta(hours=1)
    made = spb.Schedule(flag_key="top")
    made.patch.status = types.FLAG_STATUS_DISABLED
    made.update_mask.paths.append("status")
    made.execute_time.FromDatetime(at)
    await schedules.CreateSchedule(spb.CreateScheduleRequest(schedule=made), timeout=5)
    for later, variant in ((timedelta(minutes=-5), "on"), (timedelta(minutes=5), "")):
        request = pb.EvaluateFlagRequest(flag_key="child")
        request.as_of.time.FromDatetime(at + later)
        assert (await served.grpc.stub.EvaluateFlag(request, timeout=5)).evaluation.variant == variant


def flag(key: str, revision: int, *parents: str) -> Flag:
    wanted = [{"flagKey": each, "variants": ["on"]} for each in parents]
    return Flag(key=key, revision=revision, status=Status.ENABLED, prerequisites=wanted or None)


def test_the_index_of_children_follows_every_change() -> None:
    near = NearCache(100, 5.0)

    def change(each: Flag | None, key: str, revision: int) -> None:
        near.apply_change(Entry(FlagId("default", key), revision, each), float(revision))

    def below(*keys: str) -> set[str]:
        return set(near.descendants("default", keys))

    change(flag("c", 1, "b"), "c", 1)
    assert (below("b"), near.has_families("default"), near.has_families("x")) == ({"c"}, True, False)
    change(flag("b", 2, "a"), "b", 2)
    change(flag("a", 3, "c"), "a", 3)  # a cycle
    assert below("a") == {"a", "b", "c"}
    assert near.moment_of("default").members.keys() == {"a", "b", "c"}
    change(flag("c", 4), "c", 4)
    assert (below("a"), below("b"), below("c")) == ({"b"}, set(), {"a", "b"})
    change(None, "b", 5)
    assert (below("a"), below("c")) == (set(), {"a"})
    assert near.moment_of("default").members.keys() == {"a", "c"}
    change(flag("a", 6), "a", 6)
    assert not near.has_families("default")
    assert near.moment_of("default").members == {}
