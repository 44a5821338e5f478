"""What a heartbeat proves for the replica that receives it, what it says of its sender, and who counts as live."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flagsvc.adapters.mongo.store import MongoStore
from flagsvc.adapters.sqlite import SqliteStore
from flagsvc.core.model import Flag
from flagsvc.ports import NEVER, Entry, Heartbeat, ReplicaStatus, StoreContents
from flagsvc.replication.heartbeats import AckStatus, Heartbeats
from flagsvc.replication.stream_progress import StreamProgress
from flagsvc.replication.timing import Timing
from flagsvc.view.near_cache import NearCache
from tests.near_caches import merge, restore

TIMING = Timing.of_bound(5.0)
STATUS = ReplicaStatus(
    version="1",
    started_at=datetime(2030, 1, 1, tzinfo=UTC),
    view_age_s=0.0,
    staleness_bound_s=5.0,
    ready=True,
    store_up=True,
    cache_up=True,
    subscription_up=True,
    change_feed="stream",
    change_feed_up=True,
    lease_left_s=0.0,
    flags=1,
)
VIEW_AGE_S = 3.0


class Recorder:
    """Stands where the shared cache is, and records what it is given. `kept` are the heartbeats that it returns."""

    def __init__(self) -> None:
        self.sent: list[Heartbeat] = []
        self.expiries_s: list[float] = []
        self.removed: list[str] = []
        self.kept: list[Heartbeat] | None = []

    async def send_heartbeat(self, heartbeat: Heartbeat, expires_s: float) -> bool:
        self.sent.append(heartbeat)
        self.expiries_s.append(expires_s)
        return True

    async def remove_heartbeat(self, replica: str) -> None:
        self.removed.append(replica)

    async def heartbeats(self) -> list[tuple[Heartbeat, float]] | None:
        return None if self.kept is None else [(each, 0.5) for each in self.kept]


class Replica:
    """A replica's heartbeats. Its view was verified three seconds ago, at revision 7, over an unbroken stream."""

    def __init__(self, *, name: str = "this", timing: Timing = TIMING) -> None:
        now = time.monotonic()
        self.near = NearCache(10, 5.0)
        merge(self.near, StoreContents([Flag(key="a", revision=7)], {"default": 7}), now - VIEW_AGE_S, now)
        self.progress = StreamProgress(checkpoint=now, unbroken_since=now - 60)
        self.cache = Recorder()
        self.heartbeats = Heartbeats(
            name,
            self.near,
            self.cache,  # type: ignore[arg-type]
            progress=self.progress,
            timing=timing,
            status=lambda: STATUS,
        )

    async def send(self) -> Heartbeat:
        """Let the replica send one heartbeat."""
        count = len(self.cache.sent)
        self.heartbeats.reply_soon()
        async with asyncio.timeout(5):
            while len(self.cache.sent) == count:  # noqa: ASYNC110  the recorder announces nothing
                await asyncio.sleep(0)
        await asyncio.sleep(0)
        return self.cache.sent[-1]

    def receive(self, heartbeat: Heartbeat) -> float:
        return self.heartbeats.receive(heartbeat, time.monotonic())


@pytest.fixture
def replica() -> Replica:
    return Replica()


def peer_heartbeat(number: int, **fields: Any) -> Heartbeat:
    """Return a peer's heartbeat that proves a view: it quotes this number as seen half a second before."""
    usual: dict[str, Any] = {"revisions": {"default": 7}, "age_s": 2.0, "stream_age_s": 60.0}
    return Heartbeat(replica="peer", number=1, last_seen={"this": (number, 0.5)}, status=STATUS, **(usual | fields))


# What a received heartbeat proves


async def test_a_heartbeat_that_quotes_mine_proves_my_view_as_of_then_less_the_peers_age(replica: Replica) -> None:
    before = time.monotonic()
    number = (await replica.send()).number
    after = time.monotonic()
    await asyncio.sleep(0.05)  # how long the reply is in transit does not matter
    moment = replica.receive(peer_heartbeat(number))
    assert before + 0.5 - 2.0 <= moment <= after + 0.5 - 2.0


async def test_of_several_heartbeats_the_quoted_one_counts(replica: Replica) -> None:
    first = (await replica.send()).number
    between = time.monotonic()
    second = (await replica.send()).number
    assert second == first + 1
    assert replica.receive(peer_heartbeat(first)) < between + 0.5 - 2.0 <= replica.receive(peer_heartbeat(second))


@pytest.mark.parametrize(
    "fields",
    [
        {"last_seen": {}},
        {"last_seen": {"another": (1, 0.5)}},
        {"last_seen": {"this": (99, 0.5)}},
        {"age_s": math.inf},
        {"revisions": {"default": 8}},
        {"revisions": {"default": 7, "new": 1}},
        {"stream_age_s": VIEW_AGE_S - 0.5},
        {"stream_age_s": 0.0},
    ],
    ids=[
        *("quotes nobody", "quotes another", "quotes a number that was not sent", "the sender proves nothing"),
        *("has a change that is not here", "has a set that is not here", "its stream is younger than my view"),
        "its stream has just begun",
    ],
)
async def test_a_heartbeat_proves_nothing_where_one_condition_is_missing(
    replica: Replica, fields: dict[str, Any]
) -> None:
    number = (await replica.send()).number
    heartbeat = peer_heartbeat(number)
    assert replica.receive(replace(heartbeat, **fields)) == NEVER
    assert replica.receive(heartbeat) > NEVER, "with it, the heartbeat proves the view"


async def test_a_heartbeat_proves_the_view_once_every_change_of_the_peer_is_applied(replica: Replica) -> None:
    number = (await replica.send()).number
    ahead = peer_heartbeat(number, revisions={"default": 9})
    for revision in (9, 8):
        assert replica.receive(ahead) == NEVER
        replica.near.apply_change(Entry.of(Flag(key="a", revision=revision)), time.monotonic())
    assert replica.receive(ahead) > NEVER


async def test_a_view_from_a_snapshot_or_without_any_load_is_never_proven(replica: Replica) -> None:
    contents = replica.near.contents()
    number = (await replica.send()).number
    unbroken = peer_heartbeat(number, stream_age_s=1e9)
    assert replica.receive(unbroken) > NEVER
    replica.heartbeats._near = near = NearCache(10, 5.0)
    assert replica.receive(replace(unbroken, revisions={}, stream_age_s=math.inf)) == NEVER
    restore(near, contents, 0.0, time.monotonic())
    assert replica.receive(unbroken) == NEVER
    merge(near, contents, time.monotonic(), time.monotonic())
    assert replica.receive(unbroken) > NEVER


async def test_the_own_heartbeat_proves_nothing(replica: Replica) -> None:
    number = (await replica.send()).number
    assert replica.receive(replace(peer_heartbeat(number), replica="this")) == NEVER


async def test_a_quoted_heartbeat_from_long_ago_proves_nothing() -> None:
    replica = Replica(timing=replace(TIMING, staleness_bound_s=0.05))
    number = (await replica.send()).number
    assert replica.receive(peer_heartbeat(number)) > NEVER
    await asyncio.sleep(0.11)
    await replica.send()
    assert replica.receive(peer_heartbeat(number)) == NEVER


async def test_a_heartbeat_without_a_status_that_can_be_read_counts_like_any_other(replica: Replica) -> None:
    """As one of another version does."""
    number = (await replica.send()).number
    unknown = replace(peer_heartbeat(number), status=None)
    assert replica.receive(unknown) > NEVER
    assert (await replica.send()).last_seen.keys() == {"peer"}
    replica.cache.kept = [unknown]
    assert await replica.heartbeats.ack_status("default", 7) == AckStatus(("peer", "this"), ())


# What a sent heartbeat says


async def test_a_heartbeat_carries_what_is_applied_and_as_of_when(replica: Replica) -> None:
    sent = await replica.send()
    assert (sent.replica, sent.number, sent.revisions, sent.status) == ("this", 1, {"default": 7}, STATUS)
    assert VIEW_AGE_S <= sent.age_s < VIEW_AGE_S + 1
    assert 60 <= sent.stream_age_s < 61
    assert replica.cache.expiries_s == [TIMING.heartbeat_expiry_s]


async def test_a_view_counts_only_up_to_the_checkpoint_of_the_stream(replica: Replica) -> None:
    """A load takes changes that have no revision yet: no peer can be asked whether it has them."""
    replica.near.mark_verified(time.monotonic())
    replica.progress.checkpoint = time.monotonic() - 9
    assert 9 <= (await replica.send()).age_s < 10
    replica.progress.checkpoint = NEVER  # as where the store is polled instead
    assert (await replica.send()).age_s == math.inf


async def test_with_a_gap_in_the_revisions_a_view_proves_nothing(replica: Replica) -> None:
    """What is held beyond the gap is not among the revisions that a peer must have."""
    for revision, proves in ((9, False), (8, True)):
        replica.near.apply_change(Entry.of(Flag(key="a", revision=revision)), time.monotonic())
        assert ((await replica.send()).age_s < math.inf) is proves


async def test_a_stream_that_missed_something_is_as_young_as_that(replica: Replica) -> None:
    replica.progress.restart(time.monotonic() - 4)
    assert 4 <= (await replica.send()).stream_age_s < 5


async def test_where_every_writer_counts_revisions_no_stream_is_needed(replica: Replica, tmp_path: Path) -> None:
    store = SqliteStore(f"sqlite:///{tmp_path}/flags.db")
    replica.heartbeats._progress = StreamProgress.of_store(store)
    sent = await replica.send()
    assert (sent.stream_age_s, VIEW_AGE_S <= sent.age_s < VIEW_AGE_S + 1) == (math.inf, True)
    assert replica.receive(peer_heartbeat(sent.number, stream_age_s=math.inf)) > NEVER
    await store.close()


async def test_before_its_stream_has_begun_a_heartbeat_proves_nothing(replica: Replica) -> None:
    store = MongoStore("mongodb://localhost/flags")
    replica.heartbeats._progress = StreamProgress.of_store(store)
    sent = await replica.send()
    assert (sent.stream_age_s, sent.age_s) == (0.0, math.inf)
    await store.close()


async def test_a_heartbeat_quotes_the_newest_of_each_peer_with_the_time_since_then() -> None:
    replica = Replica(timing=replace(TIMING, peer_timeout_s=0.3))
    for number in (4, 5):
        replica.receive(replace(peer_heartbeat(0), number=number))
    await asyncio.sleep(0.1)
    [(name, (number, seconds_ago))] = (await replica.send()).last_seen.items()
    assert (name, number, 0.1 <= seconds_ago < 0.3) == ("peer", 5, True)
    await asyncio.sleep(0.25)
    assert (await replica.send()).last_seen == {}, "a silent peer is not quoted for ever"


async def test_two_replicas_prove_each_others_views() -> None:
    one, two = Replica(name="one"), Replica(name="two")
    began = time.monotonic()
    assert two.receive(await one.send()) == NEVER, "one has not seen a heartbeat of two yet"
    for sender, receiver in ((two, one), (one, two)):
        moment = receiver.receive(await sender.send())
        assert began - VIEW_AGE_S - 1 < moment <= time.monotonic() - VIEW_AGE_S


# Who is live, and what it has applied


@pytest.mark.parametrize(
    ("revisions", "applied"),
    [({"default": 7}, False), ({"default": 8}, True), ({"other": 8}, False), ({"default": 9}, True)],
)
async def test_a_live_replica_has_applied_a_change_when_its_heartbeat_says_so(
    replica: Replica, revisions: Mapping[str, int], applied: bool
) -> None:
    replica.cache.kept = [peer_heartbeat(0), replace(peer_heartbeat(0), replica="this")]
    assert await replica.heartbeats.ack_status("default", 8) == AckStatus(("this",), ("peer",)), "never heard of it"
    replica.receive(peer_heartbeat(0, revisions=revisions))
    found = await replica.heartbeats.ack_status("default", 8)
    assert found == (AckStatus(("peer", "this"), ()) if applied else AckStatus(("this",), ("peer",)))


async def test_while_the_cache_cannot_be_asked_the_peers_seen_recently_count_and_more_may_live() -> None:
    replica = Replica(timing=replace(TIMING, peer_timeout_s=0.2))
    replica.cache.kept = None
    replica.receive(peer_heartbeat(0))
    assert await replica.heartbeats.ack_status("default", 7) == AckStatus(("peer", "this"), (), known=False)
    await asyncio.sleep(0.25)
    assert await replica.heartbeats.ack_status("default", 7) == AckStatus(("this",), (), known=False)


async def test_waiting_for_acknowledgements_ends_with_the_last_one_or_at_the_deadline(replica: Replica) -> None:
    replica.cache.kept = [peer_heartbeat(0)]
    lagging = await replica.heartbeats.wait_for_acks("default", 8, time.monotonic() + 0.05)
    assert lagging == AckStatus(("this",), ("peer",))
    waiting = asyncio.create_task(replica.heartbeats.wait_for_acks("default", 8, time.monotonic() + 60))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    replica.receive(peer_heartbeat(0, revisions={"default": 8}))
    async with asyncio.timeout(10):
        assert await waiting == AckStatus(("peer", "this"), ())


async def test_a_replica_that_stops_waits_for_nobody(replica: Replica) -> None:
    replica.cache.kept = [peer_heartbeat(0)]
    waiting = asyncio.create_task(replica.heartbeats.wait_for_acks("default", 8, time.monotonic() + 60))
    await asyncio.sleep(0.01)
    replica.heartbeats.stop_waiting()
    async with asyncio.timeout(10):
        assert await waiting == AckStatus(("this",), ("peer",))


async def test_the_statuses_are_the_own_and_those_kept_of_others(replica: Replica) -> None:
    other = peer_heartbeat(0)
    replica.cache.kept = [other, replace(other, replica="this", revisions={"default": 1})]
    (own, own_age_s), kept = (await replica.heartbeats.statuses())[0]
    assert (own.replica, own.revisions, own_age_s) == ("this", {"default": 7}, 0.0), "as it is now, not as kept"
    assert kept == (other, 0.5)
    replica.cache.kept = None
    found, known = await replica.heartbeats.statuses()
    assert ([each.replica for each, _ in found], known) == (["this"], False)


async def test_a_replica_sends_heartbeats_until_it_stops_and_then_removes_the_kept_one() -> None:
    replica = Replica(timing=replace(TIMING, heartbeat_every_s=0.01))
    replica.heartbeats.start()
    async with asyncio.timeout(10):
        while len(replica.cache.sent) < 3:  # noqa: ASYNC110  the recorder announces nothing
            await asyncio.sleep(0.01)
    await replica.heartbeats.close()
    count = len(replica.cache.sent)
    await asyncio.sleep(0.05)
    assert (len(replica.cache.sent), replica.cache.removed) == (count, ["this"])
    assert [each.number for each in replica.cache.sent] == list(range(1, count + 1))
