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


async def test_a_new_file_is_for_its_user_alone_and_another_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "flags.db"
    for mode in (0o600, 0o640):
        store = SqliteStore(f"sqlite:///{path}")
        await store.write(FlagId("default", f"a{mode}"), create(Flag(key=f"a{mode}"), AUTHOR))
        modes = {each.stat().st_mode & 0o777 for each in path.parent.glob("*")}  # SQLite's own files beside it too
        assert modes == {mode}
        await store.close()
        path.chmod(0o640)


async def test_every_writer_assigns_revisions_so_there_are_no_change_events(tmp_path: Path) -> None:
    store = SqliteStore(f"sqlite:///{tmp_path}/flags.db")
    await store.write(FlagId("default", "good"), create(Flag(key="good"), AUTHOR))
    assert store.feed is None
    assert (await store.get(FlagId("default", "good"))).revision == 1
    await store.close()


@pytest.mark.parametrize("is_read_only", [False, True])
async def test_a_file_of_an_older_release_is_used(tmp_path: Path, is_read_only: bool) -> None:
    """It has no tables of tokens, and its history does not say who was authenticated."""
    path = tmp_path / "flags.db"
    flag_id = FlagId("default", "a")
    store = SqliteStore(f"sqlite:///{path}")
    await store.write(flag_id, create(Flag(key="a"), AUTHOR))
    await store.close()
    with sqlite3.connect(path) as db:
        db.execute("ALTER TABLE history DROP COLUMN caller")
        db.execute("DROP TABLE tokens")
        db.execute("DROP TABLE token_revision")
    db.close()
    newer = SqliteStore(f"file:{path}?mode=ro" if is_read_only else f"sqlite:///{path}")
    if is_read_only:
        newer._connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, check_same_thread=False)
    assert [(each.actor, each.caller) for each in await newer.history(flag_id, 5)] == [("anonymous", "")]
    if not is_read_only:
        by_ci = Author(datetime.now(UTC), "ann", caller="token:ci")
        await newer.write(flag_id, toggle("a", True, None, by_ci))
        [newest, _] = await newer.history(flag_id, 5)
        assert (newest.actor, newest.caller) == ("ann", "token:ci")
        assert (await newer.tokens.load()).tokens == []
    await newer.close()
