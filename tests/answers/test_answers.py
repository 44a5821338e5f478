"""Whole answers from memory: when they are given, that they are what an evaluation would give, and what they cost."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import httpx
import pytest

from flagsvc.answers.held_sets import HeldSets
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.answers.asking import TIER, Site
from tests.ofrep.asking import FLAGS_PATH
from tests.replicas import replica, until_serving

GOLD = types.EvaluationContext(attributes={"tier": types.Value(string_value="gold")})
CLOCK = '{"if":[{">":[{"var":"$flagd.timestamp"},1]},"on","off"]}'
WHOLE = '{"if":[{"!!":[{"var":""}]},"on","off"]}'
COMPUTED = '{"if":[{"var":{"cat":["$flagd",".timestamp"]}},"on","off"]}'
ERROR = '{"if":[{"==":[{"+":[{"var":"tier"},1]},2]},"on",{"var":"tier"}]}'


@pytest.fixture(scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with serving(tmp_path_factory.mktemp("answers")) as site:
        yield site


@asynccontextmanager
async def serving(folder: Path, **settings: object) -> AsyncIterator[Site]:
    """A site with three flags."""
    async with replica(store_url=f"sqlite:///{folder}/flags.db", ofrep_port=0, **settings) as (client, server):
        await until_serving(client)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.ofrep_port}", timeout=10) as http:
            site = Site(client, client.channel, http, server)
            for key in ("a", "b"):
                await site.create(key)
            await site.create("tier", targeting=TIER)
            yield site


async def remembered(site: Site, **fields: object) -> None:
    """Ask until the answer is given from memory."""
    for _ in range(3):
        before = site.hits
        await site.batch(**fields)  # type: ignore[arg-type]
    assert site.hits == before + 1


async def test_an_answer_is_given_again_when_it_is_asked_for_the_third_time(served: Site) -> None:
    for ask in (served.values, served.page, served.batch):
        before = served.hits
        answers = [await ask() for _ in range(3)]  # type: ignore[operator]
        for answer in answers:
            for each in answer if isinstance(answer, list) else ():
                each.ClearField("age_ms")
        assert answers == [answers[0]] * 3
        assert served.hits == before + 1


async def test_a_toggle_is_never_answered_from_memory(served: Site) -> None:
    for enabled in (False, True):
        for _ in range(3):
            await served.values()
            await served.page()
            await served.batch(["a", "b"])
        flag = await served.client.toggle("a", enabled)
        # Over flagd's protocol a disabled flag has no value, so the zero one; over OFREP it has none.
        assert (await served.values())["a"] is enabled
        assert (await served.page())["a"] is (True if enabled else None)
        assert (await served.batch(["a", "b"]))[0].enabled is enabled
        assert (await served.batch(["a", "b"], min_revision=flag.revision))[0].revision == flag.revision


async def test_that_toggle_would_be_missed_without_the_check(served: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HeldSets, "number_of", lambda *_: 1)
    for _ in range(3):
        await served.batch(["b"])
    await served.client.toggle("b", False)
    assert (await served.batch(["b"]))[0].enabled
    monkeypatch.undo()
    assert not (await served.batch(["b"]))[0].enabled
    await served.client.toggle("b", True)


async def test_flags_that_do_not_exist_yet_are_answered_once_they_do(served: Site) -> None:
    await remembered(served, keys=["a", "to-come"])
    assert (await served.batch(["a", "to-come"]))[1].error_code == types.ERROR_CODE_FLAG_NOT_FOUND
    await served.create("to-come")
    assert (await served.batch(["a", "to-come"]))[1].enabled


@pytest.mark.parametrize("rule", [CLOCK, WHOLE, COMPUTED])
async def test_a_rule_that_reads_the_clock_is_evaluated_each_time(served: Site, rule: str) -> None:
    await served.create(f"clock-{hash(rule)}", "clocks", targeting=rule)
    before = served.hits
    for _ in range(4):
        await served.batch(flag_set="clocks")
    assert served.hits == before


async def test_other_paths_are_not_taken_for_the_clock(served: Site) -> None:
    for number, path in enumerate(("tier", "a.b", "$flagd.flagKey", "timestamp", "$flagd_.x")):
        rule = json.dumps({"if": [{"==": [{"var": path}, "gold"]}, "on", "off"]})
        await served.create(f"no-clock-{number}", "no-clocks", targeting=rule)
    await remembered(served, flag_set="no-clocks")


async def test_ages_are_those_of_the_moment(served: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await remembered(served, keys=["a"], context=GOLD)
    near, before = served.server.replica.near, served.hits
    monkeypatch.setattr(near, "mark_verified", lambda _: None)
    for age_s in (0.0, 0.1, 0.2, 1.0, 3.0):
        monkeypatch.setattr(near, "verified_at", time.monotonic() - age_s)
        [found] = await served.batch(["a"], context=GOLD)
        assert age_s * 1000 <= found.age_ms < age_s * 1000 + 1000
        assert found.source == types.DEFINITION_SOURCE_NEAR_CACHE
    assert served.hits == before + 5


async def test_what_is_not_verified_in_time_is_not_answered_from_memory(
    served: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await remembered(served, keys=["a"], context=GOLD)
    near, before = served.server.replica.near, served.hits
    monkeypatch.setattr(near, "mark_verified", lambda _: None)
    monkeypatch.setattr(near, "verified_at", time.monotonic() - near.staleness_bound_s - 1)
    await served.batch(["a"], context=GOLD)
    assert served.hits == before


async def test_a_revision_that_is_not_held_is_not_answered_from_memory(served: Site) -> None:
    await remembered(served, keys=["a"])
    for _ in range(3):
        await served.all()
        await served.page()
    before = served.hits
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.batch(["a"], min_revision=10**6)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    token = [("flagsvc-min-revision", str(10**6))]
    with pytest.raises(grpc.aio.AioRpcError):
        await served.all(headers=token)
    assert (await served.http.post(FLAGS_PATH, json={"context": {}}, headers=token)).status_code == 503
    assert served.hits == before
    await served.batch(["a"], min_revision=1)
    await served.all(headers=[("flagsvc-min-revision", "1")])
    assert served.hits == before + 2


async def test_an_error_of_a_context_is_answered_again_to_that_context_alone(served: Site) -> None:
    await served.create("error", "errors", targeting=ERROR)
    await remembered(served, flag_set="errors", context=GOLD)
    [found] = await served.batch(flag_set="errors", context=GOLD)
    assert found.error_code == types.ERROR_CODE_GENERAL
    one = types.EvaluationContext(attributes={"tier": types.Value(integer_value=1)})
    [found] = await served.batch(flag_set="errors", context=one)
    assert found.enabled


async def test_evaluations_count_as_if_they_were_made(served: Site) -> None:
    await served.create("counted", "counted")
    await served.create("counted-too", "counted", targeting=TIER)
    for asked in range(1, 5):
        await served.batch(flag_set="counted")
        for key in ("counted", "counted-too"):
            assert served.sample("flagsvc_flag_evaluations_total", flag_set="counted", flag_key=key) == asked
    reason = served.sample("flagsvc_evaluations_total", reason="TARGETING_MATCH", error_code="")
    await served.batch(flag_set="counted")
    assert served.sample("flagsvc_evaluations_total", reason="TARGETING_MATCH", error_code="") == reason + 1


async def test_a_304_is_given_for_an_answer_from_memory(served: Site) -> None:
    first = await served.http.post(FLAGS_PATH, json={"context": {"tier": "304"}})
    for _ in range(3):
        again = await served.http.post(
            FLAGS_PATH, json={"context": {"tier": "304"}}, headers={"if-none-match": first.headers["etag"]}
        )
        assert again.status_code == 304


async def test_the_memory_is_bounded(tmp_path: Path) -> None:
    async with serving(tmp_path, answer_cache_bytes=10_000) as site:
        for number in range(100):
            for _ in range(2):
                await site.batch(context=types.EvaluationContext(targeting_key=f"user-{number}"))
        assert 5_000 < site.sample("flagsvc_answer_cache_bytes") <= 10_000
        assert 5 < site.sample("flagsvc_answer_cache_entries") < 20
        before = site.hits
        await site.batch(context=types.EvaluationContext(targeting_key="user-99"))
        await site.batch(context=types.EvaluationContext(targeting_key="user-0"))
        assert site.hits == before + 1, "the one that was not used for longest was forgotten"


async def test_it_can_be_turned_off(tmp_path: Path) -> None:
    async with serving(tmp_path, answer_cache_bytes=0) as site:
        for _ in range(4):
            await site.batch()
        assert site.hits == site.sample("flagsvc_answer_cache_calls_total") == 0
