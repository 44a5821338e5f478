"""Clients that hold values hear of each step of a rollout, and no answer that is kept hides one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from flagsvc.core.model import Flag, FlagId
from flagsvc.core.rollouts import MAX_SHARE, Point, Rollout
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.ports import Entry, StoreContents
from flagsvc.serving.rollout_steps import MAX_OUTDATED, SETTLE_S, RolloutSteps
from flagsvc.view.changelog import ChangeKind
from flagsvc.view.known_rollouts import MAX_NOT_HELD
from flagsvc.view.near_cache import NearCache
from tests.flagd_clients import VERSIONS, Evaluator
from tests.ofrep.asking import Asked, asking
from tests.replicas import until
from tests.rollouts.moments import START, flag, rollout

PUBLIC, KEY = types.EXPOSURE_PUBLIC, {"targetingKey": "user-1"}


class Clock:
    """The clock of evaluations, and of what announces steps."""

    def __init__(self) -> None:
        self.now = START - 100.0

    def __call__(self) -> float:
        return self.now

    def pass_step(self, step: int) -> None:
        """Go to the moment at which this step is announced."""
        self.now = step + SETTLE_S


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[Asked, Clock]]:
    clock = Clock()
    async with asking(tmp_path / "flags.db") as asked:
        steps = asked.server.replica.rollout_steps
        asked.server.replica.reader._clock = steps._clock = clock
        steps._passed = clock()
        yield asked, clock


def steps(*points: tuple[int, float]) -> types.Rollout:
    made = types.Rollout(from_variant="off", to_variant="on")
    for later, share in points:
        made.points.add(share=share).time.seconds = START + later
    return made


async def test_ofrep_clients_get_an_event_at_each_step_and_then_another_answer(served: tuple[Asked, Clock]) -> None:
    asked, clock = served
    flag = types.Flag(key="moving", status=1, rollout=steps((0, 100), (60, 0)))
    await asked.grpc.create("still", status=1)
    await asked.grpc.create(**{name.name: value for name, value in flag.ListFields()})
    async with asked.events() as stream:
        await stream.event()
        before = await asked.all(KEY)
        assert (await asked.all(KEY, If_None_Match=before.headers["etag"])).status_code == 304
        position = stream.id
        for step, value in ((START, True), (START + 60, False)):
            clock.pass_step(step)
            event = await stream.event()
            query = {"flagConfigEtag": event["etag"]}
            after = await asked.all(KEY, query, If_None_Match=before.headers["etag"])
            assert after.status_code == 200, "a step is another answer"
            [moving] = [each for each in after.json()["flags"] if each["key"] == "moving"]
            assert (moving["value"], moving["reason"]) == (value, "TARGETING_MATCH")
            assert (await asked.all(KEY, query, If_None_Match=after.headers["etag"])).status_code == 304
            before = after
            for _ in range(3):  # whole answers are remembered, but not those that depend on the time
                assert (await asked.all(KEY)).content == after.content
        clock.now += 10_000
        await stream.nothing(0.5)
        assert asked.server.replica.rollout_steps.announced == 2
    async with asked.events(Last_Event_ID=position) as again:
        await again.event(2)


async def test_who_may_see_public_flags_hears_of_their_steps_only(served: tuple[Asked, Clock]) -> None:
    asked, clock = served
    near = asked.server.replica.near
    heard: list[str] = []
    near.changelogs.listen(
        "default", lambda entry, _watermark, _kind: heard.append(entry.id.key), only_public=True, of_values=True
    )
    await asked.grpc.create("inner", status=1, rollout=steps((0, 100)))
    await asked.grpc.create("outer", status=1, rollout=steps((0, 100)), exposure=PUBLIC)
    heard.clear()
    clock.pass_step(START)
    await until(lambda: asked.server.replica.rollout_steps.announced == 2, 5)
    assert heard == ["outer"]


@pytest.mark.parametrize("version", VERSIONS)
async def test_flagds_event_streams_name_the_flag(served: tuple[Asked, Clock], version: str) -> None:
    asked, clock = served
    events = Evaluator(version, asked.grpc.channel).events()
    assert await events.next() == ("provider_ready", {})
    await asked.grpc.create("moving", status=1, rollout=steps((0, 50), (60, 100)))
    assert await events.next() == ("configuration_change", {"moving": "write"})
    for step in (START, START + 60):
        clock.pass_step(step)
        assert await events.next() == ("configuration_change", {"moving": "update"})


async def test_no_answer_that_is_kept_hides_a_step_and_none_is_static(served: tuple[Asked, Clock]) -> None:
    asked, clock = served
    await asked.grpc.create("moving", status=1, rollout=steps((0, 100), (60, 0)))
    held = asked.server.replica.near.peek(FlagId("default", "moving"))
    assert held is not None
    assert held.prepared.reads_clock
    evaluator, context = Evaluator("v1", asked.grpc.channel), types.EvaluationContext(targeting_key="user-1")
    for at, variant in ((-1, "off"), (0, "on"), (59, "on"), (60, "off")):
        clock.now = START + at
        for _ in range(2):
            assert (await asked.grpc.evaluate("moving", context=context)).variant == variant
            found = await evaluator.resolve("Boolean", "moving", KEY)
            assert (found["variant"], found["reason"]) == (variant, "TARGETING_MATCH")


class Heard:
    """What a near cache with some rollouts announces."""

    def __init__(self, limit: int = 100) -> None:
        self.clock = Clock()
        self.near = NearCache(limit, 5.0)
        self.steps = RolloutSteps(self.near, self.clock)
        self.keys: list[str] = []
        self.near.changelogs.listen("default", self.note, of_values=True)

    def note(self, entry: Entry, _watermark: int, _kind: ChangeKind) -> None:
        self.keys.append(entry.id.key)

    def load(self, *flags: Flag) -> None:
        for _ in self.near.merging(StoreContents(list(flags), {"default": len(flags)}), 1.0, 1.0, []):
            pass
        if not self.near.complete:
            for _ in self.near.noting_rollouts(flags):
                pass

    async def at(self, moment: float) -> list[str]:
        """Return what is announced at a moment."""
        self.clock.now, self.keys = moment, []
        await self.steps.tick()
        return self.keys


def numbered(key: str, revision: int, of: Rollout | None, **fields: object) -> Flag:
    made = flag(of or rollout(Point(START, 1)), key=key, revision=revision)
    return made if of is not None else Flag(key=key, revision=revision)


async def test_what_is_loaded_changed_and_deleted() -> None:
    heard = Heard()
    heard.load(numbered("a", 1, rollout(Point(START, 5), Point(START + 60, 7))), numbered("b", 2, None))
    assert await heard.at(START - 1) == []
    assert await heard.at(START) == [], "replicas' clocks differ"
    assert await heard.at(START + SETTLE_S) == ["a"]
    assert await heard.at(START + 1) == []
    heard.near.apply_change(Entry.of(numbered("a", 3, rollout(Point(START, 5), Point(START + 30, 7)))), 2.0)
    heard.keys.clear()
    assert await heard.at(START + 31) == ["a"]
    assert await heard.at(START + 61) == []
    heard.near.apply_change(Entry.of(numbered("b", 4, rollout(Point(START + 70, 5)))), 3.0)
    await heard.at(START + 62)
    heard.near.apply_change(Entry.absent(FlagId("default", "b"), 5), 4.0)
    assert await heard.at(START + 99) == []


async def test_a_late_tick_announces_a_flag_once_and_old_moments_do_not_pile_up() -> None:
    heard = Heard()
    heard.load(numbered("a", 1, rollout(*(Point(START + by, by) for by in range(50)))))
    await heard.at(START - 1)
    assert await heard.at(START + 1_000) == ["a"]
    for revision in range(2, 2 * MAX_OUTDATED):
        later = rollout(Point(START + 10**6 + revision, MAX_SHARE))
        heard.near.apply_change(Entry.of(numbered("a", revision, later)), float(revision))
        await heard.steps.tick()
    assert len(heard.steps._heap) <= MAX_OUTDATED + 2
    assert await heard.at(START + 2 * 10**6) == ["a"]


@pytest.mark.parametrize("limit", [0, 1, 2])
async def test_a_replica_that_holds_some_flags_announces_the_steps_of_all(limit: int) -> None:
    heard, both = Heard(limit), rollout(Point(START, 5), Point(START + 60, 7))
    heard.load(*(numbered(key, revision, both) for revision, key in enumerate("abc", 1)))
    assert not heard.near.complete
    assert sorted(await heard.at(START + 1)) == ["a", "b", "c"]
    for revision, key in enumerate("abca", 4):  # each is read, and evicted when the next one is
        heard.near.apply_change(Entry.of(numbered(key, revision, both)), float(revision))
    heard.near.apply_change(Entry.absent(FlagId("default", "b"), 8), 8.0)
    heard.near.apply_change(Entry.of(numbered("c", 9, None)), 9.0)
    assert sorted(await heard.at(START + 61)) == ["a"]


async def test_the_rollouts_that_are_not_held_are_few_and_the_last_ones() -> None:
    heard = Heard(0)
    heard.load(
        *(numbered(f"f{n}", n, rollout(Point(START, 5)), metadata={"a": 1}) for n in range(1, MAX_NOT_HELD + 11))
    )
    known = heard.near.rollouts_not_held
    assert len(known) == MAX_NOT_HELD
    assert known.get(FlagId("default", "f10")) is None
    last = heard.near.rollout_entry(FlagId("default", f"f{MAX_NOT_HELD + 10}"))
    assert last is not None
    assert last.flag is not None
    assert (last.flag.metadata, last.flag.rollout is None) == ({}, False)
    for _ in heard.near.noting_rollouts([numbered("f900", 5, None), numbered("f901", 5, rollout(Point(START, 9)))]):
        pass
    assert heard.near.rollout_entry(FlagId("default", "f901")) == known.get(FlagId("default", "f901")), "it is newer"
    assert len(await heard.at(START + 1)) == MAX_NOT_HELD


async def test_ofrep_clients_hear_of_a_rollout_that_was_there_before_the_replica_and_is_not_held(
    tmp_path: Path,
) -> None:
    async with asking(tmp_path / "flags.db") as first:
        await first.grpc.create("moving", status=1, rollout=steps((0, 100)))
        for number in range(3):
            await first.grpc.create(f"still-{number}", status=1)
    clock = Clock()
    async with asking(tmp_path / "flags.db", near_cache_entries=2) as asked:
        announcer = asked.server.replica.rollout_steps
        asked.server.replica.reader._clock = announcer._clock = clock
        announcer._passed = clock()
        announcer._planned.clear()
        assert not asked.server.replica.near.complete
        async with asked.events() as stream:
            await stream.opened()
            announcer._plan(FlagId("default", "moving"), clock())
            clock.pass_step(START)
            await stream.event()
        assert (announcer.announced, (await asked.one("moving", KEY)).json()["value"]) == (1, True)
