"""Audit entries in each kind of store: the history and all else in one order, filtered and paged."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flagsvc.adapters import sqlite_audit
from flagsvc.adapters.build import store_for
from flagsvc.adapters.mongo import audit as mongo_audit
from flagsvc.core.audit import AuditEntry, AuditQuery, Outcome
from flagsvc.core.changes import Author, create_only, put
from flagsvc.core.model import Flag
from flagsvc.ports import FlagStore

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[FlagStore]:
    store = store_for(store_url)
    await store.open()
    yield store
    await store.close()


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


async def fill(store: FlagStore) -> None:
    """Six entries, two of one moment."""
    assert store.audit is not None
    for second, key, flag_set, author in ((0, "a", "default", "ann"), (2, "b", "web", ""), (2, "c", "web", USER)):
        flag = Flag(key=key, flag_set=flag_set)
        by = Author(at(second), author, "why", "token:x" if author != "ann" else "")
        await store.write(flag.id, create_only(put(flag, by)))
    revoked = AuditEntry(at=at(1), actor="token:x", action="RevokeToken", subject="abc", on_behalf_of="ann")
    refused = AuditEntry(
        at=at(2),
        actor="token:y",
        action="ToggleFlag",
        outcome=Outcome.REFUSED,
        flag_set="web",
        subject="b",
        reason="no",
    )
    resync = AuditEntry(at=at(3), actor="anonymous", action="Resync")
    await store.audit.append([revoked, refused])
    await store.audit.append([resync])


USER = "65f0a1b2c3d4e5f601234567"


async def listed(store: FlagStore, size: int = 10, **filters: Any) -> list[AuditEntry]:
    assert store.audit is not None
    return await store.audit.page(AuditQuery(**filters), size)


def named(entries: list[AuditEntry]) -> list[str]:
    return [f"{entry.action} {entry.subject}".strip() for entry in entries]


async def test_all_sources_are_in_one_order_and_whole(store: FlagStore) -> None:
    await fill(store)
    entries = await listed(store)
    assert named(entries) == ["Resync", "CREATED c", "CREATED b", "ToggleFlag b", "RevokeToken abc", "CREATED a"]
    assert [entry.actor for entry in entries] == ["anonymous", "token:x", "token:x", "token:y", "token:x", "ann"]
    assert [entry.on_behalf_of for entry in entries] == ["", USER, "", "", "ann", ""]
    assert [entry.flag_set for entry in entries] == ["", "web", "web", "web", "", "default"]
    assert [entry.revision for entry in entries] == [0, 2, 1, 0, 0, 1]
    assert [entry.reason for entry in entries] == ["", "why", "why", "no", "", "why"]
    assert [entry.at for entry in entries] == [at(3), at(2), at(2), at(2), at(1), at(0)]


async def test_pages_have_each_entry_once(store: FlagStore) -> None:
    await fill(store)
    for size in (1, 2, 4):
        found: list[AuditEntry] = []
        while page := await listed(store, size, before=found[-1].place if found else None):
            found += page
        assert named(found) == named(await listed(store))


async def test_filters(store: FlagStore) -> None:
    await fill(store)
    for filters, found in (
        ({"since": at(2), "until": at(3)}, ["CREATED c", "CREATED b", "ToggleFlag b"]),
        ({"actor": "token:x"}, ["CREATED c", "CREATED b", "RevokeToken abc"]),
        ({"actor": "ann"}, ["CREATED a"]),
        ({"action": "CREATED", "flag_set": "default"}, ["CREATED a"]),
        ({"flag_set": "web", "subject": "b"}, ["CREATED b", "ToggleFlag b"]),
        ({"outcome": Outcome.REFUSED}, ["ToggleFlag b"]),
        ({"outcome": Outcome.DONE, "flag_set": "web"}, ["CREATED c", "CREATED b"]),
        ({"subject": "none"}, []),
    ):
        assert named(await listed(store, **filters)) == found, filters


async def test_refusals_are_bounded_and_nothing_else_is(store: FlagStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (sqlite_audit, mongo_audit):
        monkeypatch.setattr(module, "MAX_REFUSALS", 5)
    monkeypatch.setattr(mongo_audit, "SURPLUS", 0)
    assert store.audit is not None
    done = AuditEntry(at=at(0), actor="x", action="RevokeToken")
    await store.audit.append([done] * 8)
    for second in range(4):
        refused = replace(done, at=at(second), outcome=Outcome.REFUSED)
        await store.audit.append([replace(refused, subject=f"{second} {n}") for n in range(3)])
    assert [entry.subject for entry in await listed(store, outcome=Outcome.REFUSED)] == [
        "3 2",
        "3 1",
        "3 0",
        "2 2",
        "2 1",
    ]
    assert len(await listed(store, outcome=Outcome.DONE)) == 8
