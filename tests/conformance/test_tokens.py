"""What every store that keeps tokens does with them."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pymongo
import pytest

from flagsvc.adapters.build import store_for
from flagsvc.core.access import denials, tokens
from flagsvc.core.access.denials import Denial
from flagsvc.core.access.roles import Role
from flagsvc.core.access.tokens import Secret, Token
from flagsvc.core.audit import AuditEntry, AuditQuery
from flagsvc.core.changes import Author, create_only, put
from flagsvc.core.errors import ChangeRefused, StoreUnavailable, TokenNotFound
from flagsvc.core.model import Flag
from flagsvc.ports import FlagStore, TokenStore
from tests.conformance.test_store import store  # noqa: F401

NOON = datetime(2026, 11, 30, 12, 0, 0, 123_000, tzinfo=UTC)


def a_token(token_id: str = "abcABC012345", **fields: object) -> Token:
    made = Token(
        id=token_id,
        name="ci ✓",
        role=Role.WRITE,
        flag_sets=("default", "team-*"),
        created_by="token:x",
        created_at=NOON,
        expires_at=NOON + timedelta(days=90),
        for_others=True,
        context_headers=True,
        secrets=(Secret(hashlib.sha256(token_id.encode()).hexdigest(), NOON + timedelta(hours=1)),),
    )
    return replace(made, **fields)  # type: ignore[arg-type]


@pytest.fixture
def kept(store: FlagStore) -> TokenStore:  # noqa: F811
    assert store.tokens is not None
    return store.tokens


async def test_a_token_is_read_back_and_counts(kept: TokenStore) -> None:
    assert (await kept.revision(), (await kept.load()).tokens) == (0, [])
    made = await kept.write("abcABC012345", tokens.create(a_token()))
    assert made == a_token(revision=1)
    found = await kept.load()
    assert (found.revision, found.tokens, found.malformed) == (1, [made], [])
    assert await kept.revision() == 1


async def test_each_change_has_the_next_number_and_none_where_nothing_changes(kept: TokenStore) -> None:
    await kept.write("abcABC012345", tokens.create(a_token()))
    await kept.write("other", tokens.create(a_token("other", role=Role.READ)))
    revoked = await kept.write("abcABC012345", tokens.revoke("abcABC012345", NOON))
    assert revoked is not None
    assert (revoked.revision, revoked.secrets, revoked.revoked_at) == (3, (), NOON)
    assert await kept.write("abcABC012345", tokens.revoke("abcABC012345", NOON)) is None
    found = await kept.load()
    assert (found.revision, [each.revision for each in found.tokens]) == (3, [3, 2])


async def test_what_a_decision_refuses_changes_nothing(kept: TokenStore) -> None:
    with pytest.raises(TokenNotFound):
        await kept.write("nobody", tokens.revoke("nobody", NOON))
    assert (await kept.revision(), (await kept.load()).tokens) == (0, [])


async def test_changes_at_once_are_all_counted(kept: TokenStore) -> None:
    ids = [f"token{number}" for number in range(8)]
    made = await asyncio.gather(*(kept.write(each, tokens.create(a_token(each))) for each in ids))
    assert sorted(each.revision for each in made if each is not None) == list(range(1, 9))
    assert (await kept.load()).revision == 8


async def test_the_last_day_of_use_only_grows_and_takes_no_number(kept: TokenStore) -> None:
    await kept.write("abcABC012345", tokens.create(a_token()))
    for day in ("2026-11-30", "2026-12-01", "2026-11-29"):
        await kept.note_used({"abcABC012345": day, "nobody": day})
    found = await kept.load()
    assert (found.revision, [each.last_used_on for each in found.tokens]) == (1, ["2026-12-01"])


async def test_tokens_are_in_no_answer_about_flags(store: FlagStore, kept: TokenStore) -> None:  # noqa: F811
    flag = Flag(key="a")
    await store.write(flag.id, create_only(put(flag, Author(NOON, "ann", ""))))
    before = await store.load(), await store.revisions()
    await kept.write("abcABC012345", tokens.create(a_token()))
    after = await store.load(), await store.revisions()
    assert after[0].flags == before[0].flags
    assert (after[0].revisions, after[1]) == (before[0].revisions, before[1]) == ({"default": 1}, {"default": 1})


async def test_a_malformed_token_gives_no_right_and_takes_no_change(mongo_database_url: str) -> None:
    from flagsvc.adapters.mongo.store import MongoStore  # noqa: PLC0415

    made = MongoStore(mongo_database_url)
    await made.open()
    await made.tokens.write("abcABC012345", tokens.create(a_token()))
    with pymongo.MongoClient[dict[str, object]](mongo_database_url) as client:
        collection = client.get_default_database()["flagsvc_tokens"]
        collection.insert_many([{"_id": "root", "role": "admin"}, {"_id": 7}])
        collection.update_one({"_id": "abcABC012345"}, {"$set": {"revision": 1.0, "more": "fields"}})
    found = await made.tokens.load()
    assert ([each.id for each in found.tokens], sorted(found.malformed)) == (["abcABC012345"], ["7", "root"])
    with pytest.raises(ChangeRefused, match="malformed"):
        await made.tokens.write("root", tokens.revoke("root", NOON))
    await made.close()


async def test_history_keeps_who_called_beside_what_the_request_said(store: FlagStore) -> None:  # noqa: F811
    for key, author in {
        "both": Author(NOON, "65a1b2c3d4e5f60718293a4b", "", "token:ci"),
        "caller": Author(NOON, "", "", "token:ci"),
        "neither": Author(NOON, "", ""),
    }.items():
        await store.write(Flag(key=key).id, create_only(put(Flag(key=key), author)))
        [entry] = await store.history(Flag(key=key).id, 5)
        assert (entry.actor, entry.caller) == {
            "both": ("65a1b2c3d4e5f60718293a4b", "token:ci"),
            "caller": ("token:ci", "token:ci"),
            "neither": ("anonymous", ""),
        }[key]


async def test_the_key_of_tickets_is_made_once_and_is_no_token(kept: TokenStore) -> None:
    assert (await kept.load()).ticket_key == b""
    await asyncio.gather(*(kept.make_ticket_key(bytes([at]) * 64) for at in range(1, 5)))
    found = await kept.load()
    assert found.ticket_key in [bytes([at]) * 64 for at in range(1, 5)]
    await kept.make_ticket_key(bytes(64))
    again = await kept.load()
    assert (again.ticket_key, again.revision, again.tokens, again.malformed) == (found.ticket_key, 0, [], [])


def a_denial(name: str = "jwt:https://login.example.com|ann ✓", **fields: object) -> Denial:
    made = Denial(name=name, reason="left", denied_by="token:x", denied_at=NOON, expires_at=NOON + timedelta(days=1))
    return replace(made, **fields)  # type: ignore[arg-type]


async def test_denials_are_counted_with_tokens_and_kept_apart(kept: TokenStore) -> None:
    token = await kept.write("abcABC012345", tokens.create(a_token()))
    made = await kept.write(a_denial().id, denials.deny(a_denial(), None))
    assert made == a_denial(revision=2)
    lifted = await kept.write(made.id, denials.lift(made.name, "token:y", NOON, made))
    found = await kept.load()
    assert (found.revision, found.tokens, found.denials, found.malformed) == (3, [token], [lifted], [])
    other = a_denial("certificate:uri:spiffe://a")
    await kept.write(other.id, denials.deny(other, None), None, [made.id, "nobody"])
    assert [each.name for each in (await kept.load()).denials] == [other.name]


async def test_an_entry_is_stored_with_its_change_and_with_nothing_else(store: FlagStore, kept: TokenStore) -> None:  # noqa: F811
    assert store.audit is not None
    entry = AuditEntry(at=NOON, actor="token:x", action="CreateToken", subject="abcABC012345", reason="why")
    await kept.write("abcABC012345", tokens.create(a_token()), entry)
    assert await kept.write("abcABC012345", lambda _: None, replace(entry, action="UpdateToken")) is None
    with pytest.raises(TokenNotFound):
        await kept.write("nobody", tokens.revoke("nobody", NOON), replace(entry, action="RevokeToken"))
    [found] = await store.audit.page(AuditQuery(), 10)
    assert replace(found, place=entry.place) == entry


async def test_a_change_whose_entry_is_not_taken_is_not_made(store_url: str) -> None:
    made = store_for(store_url)
    await made.open()
    assert made.tokens is not None
    entry = AuditEntry(at=NOON, actor="token:x", action="CreateToken")
    await made.tokens.write("abcABC012345", tokens.create(a_token()), entry)
    _refuse_entries(store_url)
    for record_id, decide in (
        ("other", tokens.create(a_token("other"))),
        ("abcABC012345", tokens.revoke("abcABC012345", NOON)),
        (a_denial().id, denials.deny(a_denial(), None)),
    ):
        with pytest.raises(StoreUnavailable):
            await made.tokens.write(record_id, decide, entry)  # type: ignore[arg-type]
    found = await made.tokens.load()
    assert (found.revision, found.tokens, found.denials) == (1, [a_token(revision=1)], [])
    await made.close()


def _refuse_entries(store_url: str) -> None:
    """Let the store take no audit entry any more."""
    if store_url.startswith("sqlite:"):
        with sqlite3.connect(store_url.removeprefix("sqlite:///")) as db:
            db.execute("CREATE TRIGGER refuse BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'refused'); END")
        db.close()
        return
    with pymongo.MongoClient[dict[str, object]](store_url) as client:
        client.get_default_database().command("collMod", "flagsvc_audit", validator={"never": {"$exists": True}})
