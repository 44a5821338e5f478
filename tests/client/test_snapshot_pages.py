"""Snapshots that come in pages: the client's copy and its watch have the whole set, or nothing of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from flagsvc_client.watch_events import SnapshotPages

from flagsvc.api.flag_service import snapshots
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.client.forms import FORMS, asked
from tests.replicas import replica

KEYS = ["a", "b", "c", "d"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("local", [False, True])
async def test_a_snapshot_of_several_pages_is_one_for_the_application(
    form: str, local: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "PAGE_BYTES", 1)
    async with replica(store_url=f"sqlite:///{tmp_path}/flags.db") as (direct, server):
        for key in KEYS:
            await direct.create(key, status=types.FLAG_STATUS_ENABLED)
        async with asked(form, f"127.0.0.1:{server.port}", local=local) as client:
            if local:
                assert await client.wait_ready()
                found = await client.batch(KEYS)
                assert {key: details.value for key, details in found.items()} == dict.fromkeys(KEYS, True)
            else:
                events = client.watched()
                event = await anext(events)
                await events.aclose()
                assert ([flag.key for flag in event.flags], event.revision) == (KEYS, len(KEYS))


def page(*keys: str, more: bool) -> pb.WatchFlagsResponse:
    flags = [types.Flag(key=key) for key in keys]
    return pb.WatchFlagsResponse(snapshot=pb.FlagSnapshot(flags=flags, more=more), resume_revision=7)


def test_a_snapshot_that_breaks_off_is_not_received_and_the_next_stream_begins_with_another() -> None:
    broken = SnapshotPages()
    assert broken.add(page("a", more=True)) is None
    assert broken.add(page("b", more=True)) is None
    pages = SnapshotPages()
    assert pages.add(page("c", more=True)) is None
    whole = pages.add(page("d", more=False))
    assert whole is not None
    assert ([flag.key for flag in whole.snapshot.flags], whole.resume_revision) == (["c", "d"], 7)
    change = pb.WatchFlagsResponse(change=pb.FlagChange(flag_key="c"))
    assert pages.add(change) is change
    again = pages.add(page("e", more=False))
    assert again is not None
    assert [flag.key for flag in again.snapshot.flags] == ["e"]
