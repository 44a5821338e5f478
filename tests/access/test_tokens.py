"""A token's text, and how a stored token is read and changed."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagsvc.core.access import tokens
from flagsvc.core.access.records import from_json, to_json
from flagsvc.core.access.roles import Role
from flagsvc.core.access.token_documents import from_document, to_document
from flagsvc.core.access.token_text import LENGTH, NotAToken, digest_of, id_in, new_id, new_token
from flagsvc.core.access.tokens import Secret, Token
from flagsvc.core.errors import InvalidRequest, RevisionConflict, TokenNotFound, TokenRevoked

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
DIGEST = hashlib.sha256(b"one").hexdigest()
TOKEN = Token(
    id="abcABC012345",
    name="ci",
    role=Role.READ,
    flag_sets=("default", "team-*"),
    created_by="token:x",
    created_at=NOW,
    secrets=(Secret(DIGEST),),
    revision=3,
)


def nothing(_token: Token) -> None:
    """Check nothing."""


def test_a_token_has_its_id_and_256_random_bits() -> None:
    token_id = new_id()
    made = {new_token(token_id) for _ in range(100)}
    assert len(made) == 100
    assert {id_in(text) for text in made} == {token_id}
    assert all(len(text) == LENGTH and text.startswith(f"fsv_{token_id}_") for text in made)
    assert digest_of("fsv") == hashlib.sha256(b"fsv").digest()


@given(st.data())
def test_a_mistyped_token_is_no_token_and_is_not_repeated(data: st.DataObject) -> None:
    text = new_token("abcABC012345")
    at = data.draw(st.integers(0, LENGTH - 1))
    char = data.draw(st.characters().filter(lambda each: each != text[at]))
    for wrong in (text[:at] + char + text[at + 1 :], text[:at] + text[at + 1 :], text + char):
        with pytest.raises(NotAToken) as caught:
            id_in(wrong)
        assert text[17:60] not in str(caught.value)


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    digest_of(text)
    with pytest.raises(NotAToken):
        id_in(text)


def test_a_document_is_read_as_it_was_written() -> None:
    full = replace(TOKEN, expires_at=NOW + timedelta(days=1), disabled=True, revoked_at=NOW, last_used_on="2026-11-30")
    for token in (TOKEN, full, replace(full, secrets=(Secret(DIGEST, NOW), Secret("00" * 32)))):
        assert from_document(token.id, to_document(token)) == from_json(token.id, to_json(token)) == token


@pytest.mark.parametrize(
    "edit",
    [
        {"role": "root"},
        {"role": None},
        {"flagSets": []},
        {"flagSets": "default"},
        {"flagSets": [1]},
        {"disabled": "no"},
        {"disabled": 0},
        {"expiresAt": "tomorrow"},
        {"revokedAt": 0},
        {"secrets": [{"digest": "00"}]},
        {"secrets": [{"digest": DIGEST, "expiresAt": 1}]},
        {"secrets": None},
        {"name": ""},
        {"revision": True},
    ],
)
def test_a_malformed_document_gives_no_right(edit: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  no text of it reaches a caller
        from_document(TOKEN.id, to_document(TOKEN) | edit)


def test_only_a_usable_token_has_identities_and_the_earlier_end_counts() -> None:
    end, overlap = NOW + timedelta(days=2), NOW + timedelta(hours=1)
    token = replace(TOKEN, expires_at=end, secrets=(Secret(DIGEST, overlap), Secret("00" * 32)))
    old, new = token.identities().values()
    assert (old.expires_at, new.expires_at) == (overlap.timestamp(), end.timestamp())
    assert (new.id, new.role, new.scope.covers("team-a"), new.scope.covers("other")) == (
        TOKEN.id,
        Role.READ,
        True,
        False,
    )
    assert not replace(token, disabled=True).identities()
    assert not replace(token, revoked_at=NOW).identities()


def test_rotation_keeps_one_older_secret_for_the_overlap() -> None:
    later = NOW + timedelta(hours=1)
    once = tokens.rotate(TOKEN.id, "11" * 32, later, None, nothing)(TOKEN)
    assert once is not None
    assert once.secrets == (Secret(DIGEST, later), Secret("11" * 32))
    twice = tokens.rotate(TOKEN.id, "22" * 32, later + timedelta(hours=1), None, nothing)(once)
    assert twice is not None
    assert twice.secrets == (Secret("11" * 32, later + timedelta(hours=1)), Secret("22" * 32))


def test_rotation_without_an_overlap_ends_the_older_secret_by_no_clock() -> None:
    once = tokens.rotate(TOKEN.id, "11" * 32, None, None, nothing)(TOKEN)
    assert once is not None
    assert once.secrets == (Secret("11" * 32),)


def test_a_revoked_token_has_no_secret_and_stays_as_it_is() -> None:
    revoked = tokens.revoke(TOKEN.id, NOW)(TOKEN)
    assert revoked is not None
    assert (revoked.secrets, revoked.revoked_at) == ((), NOW)
    assert tokens.revoke(TOKEN.id, NOW + timedelta(days=1))(revoked) is None
    for change in (
        tokens.update(TOKEN.id, {"disabled": False}, None, nothing),
        tokens.rotate(TOKEN.id, DIGEST, NOW, None, nothing),
    ):
        with pytest.raises(TokenRevoked):
            change(revoked)


def test_changes_name_what_is_missing_or_conflicts() -> None:
    for change in (tokens.revoke("other", NOW), tokens.update("other", {}, None, nothing)):
        with pytest.raises(TokenNotFound, match='"other" not found'):
            change(None)
    with pytest.raises(RevisionConflict):
        tokens.revoke(TOKEN.id, NOW, etag=2)(TOKEN)
    with pytest.raises(InvalidRequest, match="expire_time"):
        tokens.update(TOKEN.id, {"expires_at": NOW}, None, nothing)(TOKEN)
    with pytest.raises(InvalidRequest, match="id is"):
        tokens.create(TOKEN)(TOKEN)
    assert tokens.update(TOKEN.id, {"name": "ci"}, 3, nothing)(TOKEN) is None


def test_an_update_checks_what_will_be() -> None:
    seen: list[Role] = []
    tokens.update(TOKEN.id, {"role": Role.WRITE}, None, lambda token: seen.append(token.role))(TOKEN)
    assert seen == [Role.WRITE]
