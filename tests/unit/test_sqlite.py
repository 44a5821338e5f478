"""The embedded store with a file that other programs have changed."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flagsvc.adapters.sqlite import SqliteStore
from flagsvc.core.changes import Author, create, toggle
from flagsvc.core.model import Flag, FlagId

AUTHOR = Author(datetime.now(UTC))


async def read(store: SqliteStore, flag_id: FlagId) -> Flag | None:
    return (await store.get(flag_id)).flag


@pytest.mark.parametrize(
    "document", ['{"key":', "[1,2]", "null", "", "[" * 5_000, b"\x00", '{"key":"bad","name":"\\ud800"}']
)
async def test_a_malformed_row_affects_only_its_flag(tmp_path: Path, document: object) -> None:
    store = SqliteStore(f"sqlite:///{tmp_path}/flags.db")
    for key in ("bad", "good"):
        await store.write(FlagId("default", key), create(Flag(key=key), AUTHOR))
    with sqlite3.connect(tmp_path / "flags.db") as db:
        db.execute("UPDATE flags SET document = ? WHERE key = 'bad'", (document,))
    db.close()
    held = {flag.key: flag for flag in (await store.load()).flags}
    assert "malformed" in held["bad"].problem
    assert held["good"].problem == ""
    assert await store.write(FlagId("default", "good"), toggle("good", True, None, AUTHOR))
    bad = await read(store, FlagId("default", "bad"))
    assert bad
    assert bad.problem
    await store.close()


async def test_every_writer_assigns_revisions_so_there_are_no_change_events(tmp_path: Path) -> None:
    store = SqliteStore(f"sqlite:///{tmp_path}/flags.db")
    await store.write(FlagId("default", "good"), create(Flag(key="good"), AUTHOR))
    assert store.feed is None
    assert (await store.get(FlagId("default", "good"))).revision == 1
    await store.close()
