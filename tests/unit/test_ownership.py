"""Which store's keys a process uses: its own once that is known, an assumed one before."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from flagsvc.adapters.redis.ownership import Ownership
from flagsvc.ports import StoreIdentity
from tests.stores import OTHER_STORE, STORE


@pytest.mark.parametrize(
    ("own", "owner", "is_assumed"),
    [
        ("mongodb://a:1/shop", "mongodb://b:2,c:3/shop", True),
        ("mongodb://a:1/shop", "mongodb://a:1/staging", False),
        ("mongodb://a:1", "mongodb://a:1", False),
        ("sqlite:////data/a.db", "sqlite:////data/b.db", False),
        ("sqlite:////shop", "mongodb://a/shop", False),
    ],
)
def test_before_the_store_is_read_only_an_owner_of_the_same_database_is_assumed(
    own: str, owner: str, is_assumed: bool
) -> None:
    ownership = Ownership(store_name=own)
    ownership.assume_owner(f"abc {owner}".encode())
    assert ownership.is_ours is is_assumed
    assert (ownership.identity == StoreIdentity("abc", owner)) is is_assumed


def test_a_wrong_assumption_is_reported_and_hands_nothing_over() -> None:
    ownership = Ownership()
    ownership.assume(OTHER_STORE)
    assert ownership.become(STORE) == (None, False)
    assert ownership.become(STORE) == (None, True)
    ownership.assume(OTHER_STORE)
    assert ownership.identity == STORE, "what is known is not assumed"


def test_a_new_identity_follows_the_one_before() -> None:
    ownership = Ownership(STORE)
    assert ownership.become(OTHER_STORE) == (STORE, True)
    assert ownership.before == STORE


@pytest.mark.parametrize(
    "error",
    [
        "FOREIGN e5f6a7b8 sqlite:///other.db",
        "Command # 1 (EVAL FOREIGN x y) of pipeline caused error: ('FOREIGN e5f6a7b8 sqlite:///other.db',)",
    ],
)
def test_a_script_that_another_store_refuses_names_it(error: str) -> None:
    ownership = Ownership(STORE)
    assert ownership.is_refused(error)
    assert ownership.owner == OTHER_STORE
    [problem] = ownership.problems()
    assert str(OTHER_STORE) in problem.detail
    assert str(STORE) in problem.detail
    ownership.note_owner(b"")
    assert ownership.is_ours
    assert not ownership.is_refused("READONLY You can't write against a read only replica.")


def test_garbage_in_the_owners_place_is_shown_without_control_characters() -> None:
    ownership = Ownership(STORE)
    ownership.note_owner(b"\x1b[31m \xff\n" + b"x" * 1_000)
    [problem] = ownership.problems()
    assert problem.detail.isprintable()
    assert len(problem.detail) < 1_000


def test_messages_from_before_a_resync_are_counted_and_are_no_warning() -> None:
    ownership = Ownership(STORE)
    ownership.become(OTHER_STORE)
    with capture_logs() as logs:
        ownership.note_foreign(STORE)
        ownership.note_foreign(STORE)
        ownership.note_foreign(StoreIdentity("third", "mongodb://c/shop"))
    assert ownership.foreign_messages == 3
    assert [(entry["log_level"], entry["sender"]) for entry in logs] == [
        ("info", str(STORE)),
        ("warning", "mongodb://c/shop (third)"),
    ]
