"""A remembered answer equals a new evaluation, whatever changes: tried in process, against the near cache itself."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from flagsvc.adapters.sqlite import SqliteStore
from flagsvc.answers.answers import Answers
from flagsvc.api.common.answers import AnswerSize
from flagsvc.api.common.bulk import BulkCall, EvaluatedBulk, Packing, asked
from flagsvc.core.model import Flag, FlagId, Status
from flagsvc.ports import Entry, StoreContents
from flagsvc.serving.reader import Evaluation, Reader
from flagsvc.telemetry import Metrics
from flagsvc.turns import in_turns
from flagsvc.view.near_cache import TOMBSTONE_S, NearCache
from tests.followers import follower_of
from tests.near_caches import merge

KEYS = tuple("abcdefgh")
TIER = '{"if":[{"==":[{"var":"tier"},"gold"]},"on","off"]}'


def packed(evaluation: Evaluation) -> tuple[bytes]:
    outcome = evaluation.outcome
    return (f"{evaluation.flag_id.key}={outcome.reason}:{outcome.variant}@{evaluation.revision};".encode(),)


class Replica:
    """A near cache that holds everything, and what answers from it, with and without remembered answers."""

    def __init__(self, store: SqliteStore) -> None:
        self.near = NearCache(1_000, 5.0)
        self.reader = Reader(self.near, store, None, follower_of(self.near, store))
        metrics = Metrics(tuple)
        self.plain = EvaluatedBulk(metrics.evaluated)
        self.answers = Answers(self.plain, self.near, metrics, 1_000_000)
        self.revision = 0
        self.load([])

    def load(self, flags: Sequence[Flag]) -> None:
        now = time.monotonic()
        merge(self.near, StoreContents(list(flags), {"default": self.revision}), now, now)

    def change(self, key: str, **fields: object) -> None:
        """Apply a change of a flag; without fields it is deleted."""
        self.revision += 1
        flag = Flag(key=key, revision=self.revision, **fields) if fields else None  # type: ignore[arg-type]
        entry = Entry(FlagId("default", key), self.revision, flag)
        self.near.apply_change(entry, time.monotonic())

    def call(self, keys: Sequence[str], tier: str) -> BulkCall:
        async def evaluate() -> AsyncIterator[Evaluation]:
            if keys:
                return in_turns(await self.reader.evaluate_all("default", keys, {"tier": tier}))
            return self.reader.evaluate_set("default", {"tier": tier})

        question = asked("m", "default", "", f"{tier} {keys}".encode(), "")
        return BulkCall(question, evaluate, Packing("m", packed), AnswerSize(""))


@pytest.fixture
async def replica(tmp_path: Path) -> AsyncIterator[Replica]:
    store = SqliteStore(f"sqlite:///{tmp_path}/flags.db")
    await store.open()
    yield Replica(store)
    await store.close()


@pytest.mark.parametrize("seed", range(5))
async def test_a_remembered_answer_is_what_an_evaluation_gives(replica: Replica, seed: int) -> None:
    chance = random.Random(seed)
    questions = [("", "gold"), ("", "plain"), ("ab", "gold"), ("hg", "plain"), ("aha", "gold")]
    for _ in range(100):
        key = chance.choice(KEYS)
        match chance.randrange(5):
            case 0:
                replica.change(key)
            case 1:
                status = chance.choice([Status.ENABLED, Status.DISABLED])
                replica.change(key, status=status, sort_order=chance.randrange(3))
            case 2:
                replica.change(key, status=Status.ENABLED, targeting=TIER)
            case 3:
                wanted = [{"flagKey": chance.choice(KEYS), "variants": [chance.choice(["on", "off"])]}]
                replica.change(key, status=Status.ENABLED, prerequisites=wanted)
        for keys, tier in chance.choices(questions, k=4):
            call = replica.call(keys, tier)
            assert b"".join(await replica.answers.parts(call)) == b"".join(await replica.plain.parts(call))
    hits = {sample.labels["result"]: sample.value for sample in replica.answers.samples() if sample.labels}
    assert hits["hit"] > 20


async def test_what_changes_while_it_is_evaluated_is_not_remembered(replica: Replica) -> None:
    for key in KEYS:
        replica.change(key, status=Status.ENABLED)
    call = replica.call("", "gold")

    async def changing() -> AsyncIterator[Evaluation]:
        evaluations = await call.evaluate()

        async def with_a_change() -> AsyncIterator[Evaluation]:
            async for evaluation in evaluations:
                yield evaluation
                if evaluation.flag_id.key == "d":
                    replica.change("a", status=Status.DISABLED)

        return with_a_change()

    await replica.answers.parts(call)
    torn = await replica.answers.parts(replace(call, evaluate=changing))
    assert b"a=STATIC" in b"".join(torn)
    assert b"a=DISABLED" in b"".join(await replica.answers.parts(call))


async def test_a_set_that_was_empty_before_and_after_is_not_remembered(replica: Replica) -> None:
    call = replica.call("", "gold")

    async def changing() -> AsyncIterator[Evaluation]:
        replica.change("a", status=Status.ENABLED)
        found = [evaluation async for evaluation in await call.evaluate()]
        replica.change("a")
        return in_turns(found)

    for _ in range(2):
        await replica.answers.parts(replace(call, evaluate=changing))
    assert await replica.answers.parts(call) == []


async def test_a_reload_with_the_same_flags_keeps_answers_and_another_store_drops_them(replica: Replica) -> None:
    replica.change("a", status=Status.ENABLED)
    call = replica.call("", "gold")
    for _ in range(2):
        await replica.answers.parts(call)

    def hits() -> float:
        return next(iter(replica.answers.samples())).value

    replica.load([Flag(key="a", revision=1, status=Status.ENABLED)])
    await replica.answers.parts(call)
    assert hits() == 1
    replica.near.drop()
    replica.revision = 0
    replica.load([Flag(key="a", revision=1, status=Status.DISABLED)])
    replica.revision = 1
    assert b"a=DISABLED" in b"".join(await replica.answers.parts(call))
    assert hits() == 1


async def test_a_deletion_that_is_forgotten_is_not_answered_from_memory(replica: Replica) -> None:
    replica.change("a", status=Status.ENABLED)
    replica.revision += 1
    deleted = Entry.absent(FlagId("default", "b"), replica.revision)
    replica.near.apply_change(deleted, time.monotonic() - 2 * TOMBSTONE_S)
    call = replica.call("ab", "gold")
    for _ in range(2):
        assert b"b=ERROR:None@2" in b"".join(await replica.answers.parts(call))
    replica.load([Flag(key="a", revision=1, status=Status.ENABLED)])
    assert b"b=ERROR:None@0" in b"".join(await replica.answers.parts(call))


async def test_an_answer_that_was_stale_for_a_moment_is_not_remembered(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica.change("a", status=Status.ENABLED)
    call = replica.call("", "gold")

    async def stale() -> AsyncIterator[Evaluation]:
        evaluations = await call.evaluate()
        with monkeypatch.context() as patch:
            await asyncio.sleep(0)
            verified_at = replica.near.verified_at - 100
            patch.setattr(replica.near, "verified_at_of", lambda _: verified_at)
            return in_turns([evaluation async for evaluation in evaluations])

    await replica.answers.parts(call)
    assert b"a=STALE" in b"".join(await replica.answers.parts(replace(call, evaluate=stale)))
    for _ in range(2):
        assert b"a=STATIC" in b"".join(await replica.answers.parts(call))
