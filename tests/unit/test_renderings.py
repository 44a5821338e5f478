"""Whole sets are rendered in turns: nothing is lost meanwhile, and no step has more than its share."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagsvc import turns
from flagsvc.adapters.sqlite import SqliteStore
from flagsvc.api.common.contexts import LazyContext, in_full
from flagsvc.api.flag_service import snapshots, watch
from flagsvc.api.flag_service.flag_messages import flag_to_message
from flagsvc.api.flag_service.service import _encoded_list
from flagsvc.api.flag_service.snapshots import MAX_LATER, SetSnapshot
from flagsvc.api.flag_service.watch import Watches
from flagsvc.api.flagd import sync_payload
from flagsvc.api.flagd.sync_payload import _configuration
from flagsvc.core.errors import AnswerTooLarge
from flagsvc.core.model import Flag
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.ports import Entry, StoreContents
from flagsvc.serving.reader import Reader
from flagsvc.view.near_cache import NearCache
from tests.followers import follower_of
from tests.near_caches import merge

FLAGS = 2_000


@pytest.fixture
def set_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SetSnapshot:
    monkeypatch.setattr(turns, "TURN_S", 0.0)
    near, store = NearCache(10 * FLAGS, 1e6), SqliteStore(f"sqlite:///{tmp_path}/flags.db")
    flags = [Flag(key=f"k{number:04}", revision=number + 1) for number in range(FLAGS)]
    now = time.monotonic()
    merge(near, StoreContents(flags, {"default": FLAGS}), now, now)
    follower = follower_of(near, store)
    follower.tried.set()
    return SetSnapshot("default", near, Reader(near, store, None, follower), b"")


def changed(near: NearCache, number: int, of: int | None = None) -> None:
    flag = Flag(key=f"k{(number if of is None else of) % FLAGS:04}", name="changed", revision=FLAGS + 1 + number)
    near.apply_change(Entry.of(flag), 0.0)


async def test_no_change_is_lost_however_many_there_are_while_a_snapshot_is_rendered(set_snapshot: SetSnapshot) -> None:
    rendering = asyncio.create_task(set_snapshot.newest(in_pages=True))
    await asyncio.sleep(0)  # it begins with what is held now
    number = 0
    while not rendering.done():
        changed(set_snapshot._near, number)
        number += 1
        await asyncio.sleep(0)
    pages, later = await rendering
    sent = [pb.WatchFlagsResponse.FromString(page) for page in pages]
    assert [flag.name for page in sent for flag in page.snapshot.flags] == [""] * FLAGS, "all of one moment"
    assert number > 2 * MAX_LATER
    known = {entry.id.key for entry, _ in later}
    assert known >= {f"k{each % FLAGS:04}" for each in range(number - 1)}
    assert [watermark for _, watermark in later] == sorted(watermark for _, watermark in later)


async def test_a_snapshot_that_is_sent_keeps_few_changes_and_of_each_flag_the_last(set_snapshot: SetSnapshot) -> None:
    await set_snapshot.newest(in_pages=False)
    for number in range(3):
        changed(set_snapshot._near, number, of=0)
    [whole], later = await set_snapshot.newest(in_pages=False)
    assert len(pb.WatchFlagsResponse.FromString(whole).snapshot.flags) == FLAGS
    assert [(entry.id.key, watermark) for entry, watermark in later] == [("k0000", FLAGS + 3)]
    assert set_snapshot._newest is not None
    first = set_snapshot._newest
    for number in range(1, 2 * MAX_LATER):
        changed(set_snapshot._near, 2 + number)
    assert len(first.later) == MAX_LATER + 1
    _, later = await set_snapshot.newest(in_pages=True)
    assert (later, set_snapshot._newest is first) == ([], False)


async def test_a_flag_with_many_values_is_packed_outside_the_event_loop_and_is_a_page(
    set_snapshot: SetSnapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: dict[str, str] = {}
    pack = snapshots.flag_to_message

    def packed(flag: Flag) -> types.Flag:
        threads[flag.key] = threading.current_thread().name
        return pack(flag)

    monkeypatch.setattr(snapshots, "flag_to_message", packed)
    large = Flag(key="k0003", revision=FLAGS + 1, variants={"on": {f"{i:x}": i for i in range(5_000)}})
    set_snapshot._near.apply_change(Entry.of(large), 0.0)
    pages, _ = await set_snapshot.newest(in_pages=True)
    assert {key for key, name in threads.items() if name.startswith("off-loop")} == {"k0003"}
    [whole], _ = await set_snapshot.newest(in_pages=False)
    assert len(pages) > 2
    read = pb.WatchFlagsResponse.FromString(whole).snapshot
    assert [flag.key for flag in read.flags] == [f"k{number:04}" for number in range(FLAGS)]
    assert not read.more
    assert len(read.flags[3].variants["on"].object_value.fields) == 5_000


@given(st.dictionaries(st.text(), st.text(max_size=40), max_size=30), st.integers(1, 200))
def test_a_sets_definitions_are_joined_to_json_in_small_pieces(values: dict[str, str], piece: int) -> None:
    members = {key: f"{json.dumps(key)}:{json.dumps(value)}".encode() for key, value in values.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sync_payload, "PIECE_BYTES", piece)
        pieces = asyncio.run(_configuration(members))
    assert json.loads(b"".join(pieces)) == {"flags": values}
    longest = max(map(len, members.values()), default=0)
    assert max(map(len, pieces)) <= max(11, 2 * (piece + longest))


def test_a_set_that_is_too_large_is_refused_before_it_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_payload, "MAX_SET_BYTES", 1_000)
    members = {str(number): b"x" * 400 for number in range(3)}
    with pytest.raises(AnswerTooLarge):
        asyncio.run(_configuration(members))


def test_a_page_is_encoded_flag_by_flag() -> None:
    flags = [Flag(key=f"k{number}", revision=number, variants={"on": {"a": number}}) for number in range(5)]
    wanted = pb.ListFlagsResponse(flags=map(snapshots.flag_to_message, flags), next_page_token="next")
    assert pb.ListFlagsResponse.FromString(_encoded_list(flags, "next")) == wanted
    assert pb.ListFlagsResponse.FromString(_encoded_list([], "")) == pb.ListFlagsResponse()


async def test_a_large_context_is_converted_in_the_thread_and_a_small_one_at_once() -> None:
    threads: list[str] = []

    def convert(_value: object, _field: str) -> str:
        threads.append(threading.current_thread().name)
        return "x"

    for is_large in (True, False):
        context = LazyContext({"a": 1, "b": 2}, convert, {"c": "known"}, is_large=is_large)
        assert await in_full(context) == {"a": "x", "b": "x", "c": "known"}
    assert [name.startswith("off-loop") for name in threads] == [True] * 2 + [False] * 2


async def test_a_watch_that_resumes_packs_each_change_when_it_is_sent(
    set_snapshot: SetSnapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, packed = set_snapshot._near, []
    monkeypatch.setattr(watch, "flag_to_message", lambda flag: packed.append(flag.key) or flag_to_message(flag))
    for number in range(20):
        changed(near, number)
    stream = Watches(near, set_snapshot._reader, 60.0, pb.EvaluationSettings()).stream("default", FLAGS)
    first = await anext(stream)
    assert isinstance(first, pb.WatchFlagsResponse)
    assert (first.change.flag_key, first.resume_revision, packed) == ("k0000", FLAGS + 1, ["k0000"])
    rest = [await anext(stream) for _ in range(19)]
    assert [each.resume_revision for each in rest if isinstance(each, pb.WatchFlagsResponse)][-1] == FLAGS + 20


async def test_a_snapshot_that_is_too_large_for_one_message_is_refused_with_what_helps(
    set_snapshot: SetSnapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "MAX_SET_BYTES", 1_000)
    with pytest.raises(AnswerTooLarge, match="paged_snapshots"):
        await set_snapshot.newest(in_pages=False)
    pages, _ = await set_snapshot.newest(in_pages=True)
    assert sum(map(len, pages)) > 1_000
