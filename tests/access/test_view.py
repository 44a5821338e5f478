"""The view of tokens, who a caller is, and the end of what revoked callers have open."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from flagsvc.access.authority import Authority
from flagsvc.access.compiled_tokens import compiled
from flagsvc.access.sessions import Sessions
from flagsvc.access.token_view import TokenView
from flagsvc.access.token_writer import Grant, issued
from flagsvc.core.access.identity import UNCHECKED, Identity, Kind
from flagsvc.core.access.roles import EVALUATING, Role
from flagsvc.core.access.token_text import digest_of, new_token
from flagsvc.core.access.tokens import Secret, Token
from flagsvc.core.errors import AccessUnknown, PermissionDenied, RightsChanged, Unauthenticated
from flagsvc.ports import StoredTokens

LATER = datetime.now(UTC) + timedelta(days=1)


def made(role: Role = Role.READ, flag_sets: tuple[str, ...] = ("default",), **fields: object) -> tuple[Token, str]:
    token, text = issued(UNCHECKED, Grant("ci", role, flag_sets))
    return replace(token, **fields), text  # type: ignore[arg-type]


def held(*tokens: Token, revision: int = 1) -> tuple[TokenView, Authority]:
    view = TokenView()
    view.hold(StoredTokens(revision, tokens), time.monotonic())
    return view, Authority(view, 5.0)


def test_a_token_stands_for_its_caller_until_it_is_revoked() -> None:
    token, text = made()
    view, authority = held(token)
    caller = authority.identify(text)
    assert (caller.id, caller.role, str(caller), view.used) == (token.id, Role.READ, f"token:{token.id}", {token.id})
    view.hold(StoredTokens(2, [replace(token, revoked_at=LATER, secrets=())]), time.monotonic())
    with pytest.raises(Unauthenticated, match="unknown, revoked or disabled"):
        authority.identify(text)
    assert authority.current(caller) is None


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        ({"disabled": True}, "unknown, revoked or disabled"),
        ({"expires_at": datetime.now(UTC) - timedelta(seconds=1)}, "has expired"),
    ],
)
def test_a_token_that_is_not_valid_now_is_refused(edit: dict[str, object], text: str) -> None:
    token, secret = made()
    _, authority = held(replace(token, **edit))  # type: ignore[arg-type]
    with pytest.raises(Unauthenticated, match=text):
        authority.identify(secret)


@pytest.mark.parametrize("credential", ["", "x", "Bearer x", "fsv_a_b_c", "eyJ.a.b", "fsv_" + "a" * 8_000])
def test_what_is_no_token_is_refused_and_not_repeated(credential: str) -> None:
    _, authority = held(made()[0])
    with pytest.raises(Unauthenticated) as caught:
        authority.identify(credential)
    assert len(credential) < 4 or credential not in str(caught.value)


def test_a_right_id_with_another_secret_is_refused() -> None:
    token, _ = made()
    _, authority = held(token)
    with pytest.raises(Unauthenticated, match="unknown, revoked or disabled"):
        authority.identify(new_token(token.id))


def test_before_the_first_load_nobody_is_known_and_a_retry_helps() -> None:
    with pytest.raises(AccessUnknown):
        Authority(TokenView(), 5.0).identify(made()[1])


def test_past_the_staleness_bound_only_evaluations_go_on() -> None:
    view, authority = held(made()[0])
    for role in Role:
        authority.check_known(role)
    view.verified_at = time.monotonic() - 6
    for role in EVALUATING:
        authority.check_known(role)
    for role in set(Role) - EVALUATING:
        with pytest.raises(AccessUnknown, match="staleness bound"):
            authority.check_known(role)


def test_a_restored_store_brings_no_revoked_token_back() -> None:
    token, text = made()
    view, authority = held(token)
    view.hold(StoredTokens(2, [replace(token, revoked_at=LATER, secrets=())]), time.monotonic())
    for contents in ([token], [], [token]):
        view.hold(StoredTokens(1, contents), time.monotonic())
        with pytest.raises(Unauthenticated):
            authority.identify(text)
    assert view.returned == {token.id}


def test_a_load_that_began_before_a_change_does_not_undo_it() -> None:
    token, text = made(revision=1)
    view, authority = held(token)
    began = time.monotonic()
    view.apply(replace(token, revoked_at=LATER, secrets=(), revision=2))
    view.hold(StoredTokens(1, [token]), began)
    with pytest.raises(Unauthenticated):
        authority.identify(text)
    assert not view.returned
    view.hold(StoredTokens(2, [replace(token, revoked_at=LATER, secrets=(), revision=2)]), time.monotonic())
    assert view.revision == 2


def test_a_change_here_counts_as_enforced_only_if_none_is_missing_before_it() -> None:
    token, _ = made(revision=1)
    view, _ = held(token)
    view.apply(replace(token, name="b", revision=2))
    assert view.revision == 2
    view.apply(replace(token, name="c", revision=4))
    assert view.revision == 2


def test_callers_whose_tokens_did_not_change_keep_their_objects_and_cost_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (first, first_text), (second, second_text) = made(), made()
    view, authority = held(first, second)
    before, made_for, identities = authority.identify(first_text), [], Token.identities
    monkeypatch.setattr(Token, "identities", lambda self: made_for.append(self.id) or identities(self))
    view.hold(StoredTokens(2, [replace(first), replace(second, name="new")]), time.monotonic())
    view.apply(replace(second, name="newer", revision=3))
    assert authority.identify(first_text) is before
    assert (authority.identify(second_text).name, made_for) == ("newer", [second.id, second.id])


def test_whatever_changes_who_is_known_is_what_the_tokens_say() -> None:
    chosen = random.Random(7)
    some = [made()[0] for _ in range(6)]
    view, revoked = TokenView(), set()
    for revision in range(1, 400):
        stored = [_changed(token, chosen) for token in some if chosen.random() < 0.7]
        step = chosen.randrange(3)
        if step == 0:
            view.hold(StoredTokens(revision, stored), time.monotonic())
        elif step == 1 and stored:
            view.apply(replace(stored[0], revision=revision))
        else:
            view.hold_file(compiled((_changed(token, chosen) for token in some if chosen.random() < 0.5), {}))
        revoked |= {token.id for token in view.stored.values() if token.revoked_at is not None}
        usable = {**view.filed, **{name: token for name, token in view.stored.items() if name not in revoked}}
        expected = {key: each.id for token in usable.values() for key, each in token.identities().items()}
        assert {key: each.id for key, each in view._identities.items()} == expected
        assert not revoked & view.filed.keys()
        assert dict(view.tokens) == {**view.stored, **view.filed}


def _changed(token: Token, chosen: random.Random) -> Token:
    edits = [{"name": "a"}, {"name": "b"}, {"disabled": True}, {"secrets": (Secret(chosen.randbytes(32).hex()),)}]
    edits += [{"revoked_at": LATER, "secrets": ()}] * (chosen.random() < 0.02)
    return replace(token, **chosen.choice(edits))


def test_both_secrets_are_valid_during_an_overlap() -> None:
    token, old = made()
    text = new_token(token.id)
    secrets = (Secret(digest_of(old).hex(), LATER), Secret(digest_of(text).hex()))
    _, authority = held(replace(token, secrets=secrets))
    assert authority.identify(old).expires_at == LATER.timestamp()
    assert authority.identify(text).expires_at == float("inf")


async def test_an_open_call_ends_when_its_caller_is_revoked_narrowed_or_expired() -> None:
    ended = {}
    for name, edit, refusal in (
        ("revoked", {"revoked_at": LATER, "secrets": ()}, Unauthenticated),
        ("disabled", {"disabled": True}, Unauthenticated),
        ("expired", {"expires_at": datetime.now(UTC)}, Unauthenticated),
        ("lesser", {"role": Role.EVALUATE}, PermissionDenied),
        ("narrowed", {"flag_sets": ("other",)}, PermissionDenied),
        ("fewer", {"flag_sets": ("default",)}, RightsChanged),
        ("renamed", {"name": "new"}, None),
        ("raised", {"role": Role.WRITE, "flag_sets": ("*",)}, None),
    ):
        token, text = made(flag_sets=("default", "second"))
        view, authority = held(token)
        stream = asyncio.create_task(_stream(authority, authority.identify(text)))
        await asyncio.sleep(0)
        view.hold(StoredTokens(2, [replace(token, **edit)]), time.monotonic())  # type: ignore[arg-type]
        authority.sessions.check_all()
        done, _ = await asyncio.wait({stream}, timeout=0 if refusal is None else 5)
        ended[name] = type(stream.exception()) if done else None
        assert ended[name] is refusal, name
        assert (authority.sessions.ended, len(authority.sessions)) == ((0, 1) if refusal is None else (1, 0))
        stream.cancel()
        await asyncio.wait({stream})


async def test_a_stream_that_is_being_sent_ends_once_its_message_is_sent() -> None:
    """A task that is cancelled while gRPC sends would end without a status: its client would wait for ever."""
    token, text = made()
    view, authority = held(token)

    async def endless() -> AsyncIterator[str]:
        while True:
            yield "message"

    async def stream() -> AsyncIterator[str]:
        with authority.sessions.open(authority.identify(text), Role.READ) as session:
            async for message in session.endable(endless()):
                yield message

    messages = stream()
    assert await anext(messages) == await anext(messages) == "message"
    view.hold(StoredTokens(2, [replace(token, disabled=True)]), time.monotonic())
    authority.sessions.check_all()
    authority.sessions.check_all()
    await asyncio.sleep(0)  # a cancelled task would end here
    with pytest.raises(Unauthenticated, match="revoked"):
        await anext(messages)
    assert (authority.sessions.ended, len(authority.sessions)) == (1, 0)


async def test_expiry_ends_a_call_without_any_change() -> None:
    token, text = made(expires_at=datetime.now(UTC) + timedelta(seconds=0.05))
    _, authority = held(token)
    stream = asyncio.create_task(_stream(authority, authority.identify(text)))
    while not stream.done():
        await asyncio.sleep(0.005)
        authority.sessions.check_expired()
    assert time.time() >= token.expires_at.timestamp()  # type: ignore[union-attr]
    assert type(stream.exception()) is Unauthenticated


async def test_a_call_that_its_own_caller_cancels_is_cancelled() -> None:
    token, text = made()
    _, authority = held(token)
    stream = asyncio.create_task(_stream(authority, authority.identify(text)))
    await asyncio.sleep(0)
    stream.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stream
    assert (len(authority.sessions), authority.sessions.ended) == (0, 0)


async def _stream(authority: Authority, caller: Identity) -> None:
    with authority.sessions.open(caller, Role.READ) as session:
        session.flag_sets = ("default",)
        await asyncio.Event().wait()


async def test_a_change_of_one_caller_decides_nothing_about_the_streams_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, other = (replace(UNCHECKED, kind=Kind.TOKEN, id=name, key=b"k") for name in ("one", "other"))
    now, decided = {"one": one, "other": other}, []
    sessions = Sessions(lambda caller: now[caller.id], lambda: None)
    monkeypatch.setattr("flagsvc.access.sessions.authorize", lambda caller, *_: decided.append(caller.id))

    async def wait(caller: Identity) -> None:
        with sessions.open(caller, Role.READ):
            await asyncio.Event().wait()

    waiting = [asyncio.create_task(wait(caller)) for caller in (one, other, other)]
    await asyncio.sleep(0)
    now["one"] = replace(one, name="renamed")
    sessions.check_all()
    assert decided == ["one"]
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert len(sessions) == 0
