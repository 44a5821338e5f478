"""Flags that use what others may not know say so: who does not know it answers GENERAL, never a wrong value."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from flagsvc_client import FlagServiceError
from flagsvc_client.local import settings as client_settings
from flagsvc_client.local.settings import settings_of

from flagsvc.adapters.redis.messages import entry_in
from flagsvc.api.flagd.definitions import definition_of
from flagsvc.cli.changed_fields import flag_changes
from flagsvc.core import changes, needs
from flagsvc.core.documents import dumps, from_document, loads, to_document
from flagsvc.core.errors import InvalidRequest
from flagsvc.core.evaluation import ErrorCode, prepare
from flagsvc.core.flagd.writing import write
from flagsvc.core.model import Flag, FlagId, Status
from flagsvc.core.rollouts import MAX_SHARE, Point, to_json
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.ports import FlagStore
from tests.client.forms import FORMS, asked
from tests.conformance.test_store import author, read, store
from tests.replicas import Client, replica, until_serving
from tests.rollouts.moments import START, flag, rollout
from tests.rollouts.test_service import message

__all__ = ["store"]
MOVED = rollout(Point(START, MAX_SHARE))
NEWER = {
    "key": "newer",
    "status": "ENABLED",
    "needs": ["holdouts-1", "rollout-1"],
    "holdouts": [{"flagKey": "a"}],
    "revision": 4,
}
TEXT = "The flag needs 'holdouts-1', which this release of flagsvc does not know: upgrade it"


def test_a_flag_with_a_rollout_says_so_and_is_known() -> None:
    document = to_document(flag(MOVED))
    assert document["needs"] == ["rollout-1"]
    assert from_document(document) == flag(MOVED)
    assert loads(dumps(flag(MOVED))) == flag(MOVED)
    assert "needs" not in to_document(Flag(key="plain"))


def test_what_people_see_of_a_change_is_the_rollout() -> None:
    before = flag(MOVED, rollout=None)
    assert flag_changes(before, flag(MOVED)) == {"rollout": {"before": None, "after": to_json(MOVED)}}


def test_what_is_not_known_is_general_and_passed_on() -> None:
    newer = from_document(NEWER)
    found = prepare(newer).fixed
    assert found is not None
    assert (found.error_code, found.message) == (ErrorCode.GENERAL, TEXT)
    assert json.loads(dumps(loads(dumps(newer)))) == {**json.loads(dumps(newer)), **NEWER, "needs": ["holdouts-1"]}
    after = changes.toggle("newer", False, None, author(1))(newer).after  # type: ignore[union-attr]
    assert after is not None
    assert to_document(after)["holdouts"] == NEWER["holdouts"]


@pytest.mark.parametrize("needs_", ["rollout-1", 7, {"a": 1}, [7], [None]])
def test_odd_needs_are_not_known(needs_: Any) -> None:
    found = prepare(from_document({"key": "a", "status": "ENABLED", "needs": needs_}))
    known = needs_ == "rollout-1"
    assert (found.fixed.error_code if found.fixed else None) == (None if known else ErrorCode.GENERAL)


def test_what_is_not_known_is_disabled_for_providers_in_process_and_not_exported() -> None:
    newer = from_document(NEWER)
    sent = definition_of(newer, prepare(newer))
    assert json.loads("{" + sent.text + "}")["newer"]["state"] == "DISABLED"
    assert sent.problem == TEXT
    with pytest.raises(InvalidRequest, match="holdouts-1"):
        write([newer])


def test_what_an_older_release_puts_into_redis_is_not_believed() -> None:
    """It knows neither `needs` nor a rollout, and so leaves out both."""
    document = json.loads(dumps(flag(MOVED, revision=7)))
    for lost in (set(), {"needs"}, {"needs", "rollout"}):
        kept = {name: value for name, value in document.items() if name not in lost}
        entry = entry_in(FlagId("default", "new-checkout"), f"3:store:0:7:{json.dumps(kept)}".encode(), "store")
        assert (entry is None) is bool(lost)
    assert json.loads(dumps(Flag(key="plain")))["needs"] == []


async def test_stores_keep_a_rollout_and_what_they_do_not_know(store: FlagStore) -> None:
    await store.write(FlagId("default", "new-checkout"), changes.create(flag(MOVED), author(1)))
    found = await read(store, FlagId("default", "new-checkout"))
    assert found is not None
    assert (found.rollout, found.unknown) == (to_json(MOVED), None)
    assert (await store.history(found.id, 1))[0].new["rollout"] == to_json(MOVED)
    cleared = changes.update(Flag(key=found.key), ["rollout"], None, author(2))
    await store.write(found.id, cleared)
    found = await read(store, found.id)
    assert found is not None
    assert to_document(found).keys() & {"rollout", "needs"} == set()
    newer = replace(from_document(NEWER), revision=0)
    await store.write(newer.id, changes.put(newer, author(3)))
    stored = await read(store, newer.id)
    assert stored is not None
    assert (stored.unknown, stored.revision, stored.status) == (newer.unknown, 3, Status.ENABLED)
    await store.write(newer.id, changes.toggle("newer", False, None, author(4)))
    toggled = await read(store, newer.id)
    assert toggled is not None
    assert (toggled.status, toggled.unknown) == (Status.DISABLED, newer.unknown)


@pytest.fixture(scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    async with replica(store_url=f"sqlite:///{tmp_path_factory.mktemp('needs')}/flags.db") as (client, _):
        await until_serving(client)
        yield client


async def first_of(client: Client, flag_set: str, **fields: Any) -> tuple[pb.WatchFlagsResponse, Any]:
    call = client.stub.WatchFlags(pb.WatchFlagsRequest(flag_set=flag_set, **fields), timeout=5)
    return await call.read(), call


@pytest.mark.parametrize("paged", [False, True])
async def test_a_client_that_does_not_know_it_refuses_the_watch_from_the_first_such_flag_on(
    client: Client, paged: bool
) -> None:
    of = f"watched-{paged}"
    await client.create("plain", flag_set=of)
    first, call = await first_of(client, of, paged_snapshots=paged)
    assert list(first.evaluation.requires) == ["rules-1"]
    await client.create("moving", flag_set=of, status=1, rollout=message((0, 100)))
    change = await call.read()
    assert change.change.flag_key == "moving"
    assert list(change.evaluation.requires) == ["rules-1", "rollout-1"]
    assert list(change.evaluation.flag_needs) == ["rollout-1"]
    call.cancel()
    first, call = await first_of(client, of, paged_snapshots=paged)
    assert list(first.evaluation.requires) == ["rules-1", "rollout-1"]
    call.cancel()
    resumed, call = await first_of(client, of, resume_revision=1)
    assert list(resumed.evaluation.requires) == ["rules-1", "rollout-1"]
    call.cancel()
    older = client_settings.KNOWN - needs.KNOWN
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client_settings, "KNOWN", older)
        change.evaluation.ClearField("flag_needs")  # which an older client does not read
        with pytest.raises(FlagServiceError, match="'rollout-1'"):
            settings_of(change)


@pytest.mark.parametrize("form", FORMS)
async def test_a_local_client_moves_with_the_time_and_is_general_for_what_it_does_not_know(
    client: Client, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = f"local-{form}"
    async with asked(form, client.target, flag_set=of) as network:
        await network.create(Flag(key="moving", status=Status.ENABLED, rollout=to_json(MOVED)))
        again = await network.flag("moving")
        assert again.rollout == {**to_json(MOVED), "points": [{"time": "2027-01-15T08:00:00Z", "share": 100.0}]}
        await network.set("moving", rollout={"from": "off", "to": "on", "points": again.rollout["points"]})
    async with asked(form, client.target, flag_set=of, local=True) as local:
        assert await local.wait_ready()
        flags = local.client._local.flags if hasattr(local, "client") else local._local.flags
        for now, variant in ((START - 1, "off"), (START, "on")):
            monkeypatch.setattr(flags, "_wall_clock", lambda now=now: float(now))
            assert (await local.details("moving", {"targetingKey": "u"}, default=False)).variant == variant
        newer = from_document({**NEWER, "flagSet": of})
        flags.change("newer", newer, 99)
        found = await local.details("newer", {"targetingKey": "u"}, default=False)
        assert (found.error_code, found.error_message) == ("GENERAL", TEXT)
