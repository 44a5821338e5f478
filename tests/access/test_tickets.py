"""Tickets: what they are good for, and what refuses them. Nobody else can make or read one."""

from __future__ import annotations

import base64
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from flagsvc.access.authority import Authority
from flagsvc.access.tickets import STEP_S, VALID_S, Tickets
from flagsvc.access.token_view import TokenView
from flagsvc.core.access.identity import Identity
from flagsvc.core.access.tokens import Secret, Token
from flagsvc.core.errors import Unauthenticated
from flagsvc.ports import StoredTokens
from tests.access.callers import made

NOON = 1_796_040_000.0
KEY = bytes(range(64))


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


class Replica:
    """One that holds some tokens and the key of a store."""

    def __init__(self, *tokens: Token, key: bytes = KEY) -> None:
        self.view, self.clock = TokenView(), Clock()
        self.tickets = Tickets(self.view, lambda: None, self.clock)
        self.hold(*tokens, key=key)

    def hold(self, *tokens: Token, key: bytes = b"") -> None:
        self.view.hold(StoredTokens(self.view.revision + 1, tokens, (), key), time.monotonic())

    def caller(self, token: Token) -> Identity:
        return self.view.of_token(token.id)[-1]

    def ticket(self, token: Token, flag_set: str = "default") -> str:
        return self.tickets.issue(self.caller(token), flag_set)

    def is_refused(self, ticket: str, flag_set: str = "default") -> bool:
        try:
            self.tickets.holder(ticket, flag_set)
        except Unauthenticated:
            return True
        return False


def test_a_ticket_stands_for_its_caller_on_every_replica_of_the_store() -> None:
    token, _ = made("evaluate", "default")
    one, other = Replica(token), Replica(token)
    ticket = one.ticket(token)
    assert other.tickets.holder(ticket, "default") is other.caller(token)
    assert Replica(token, key=bytes(64)).is_refused(ticket)
    assert Replica(token, key=b"").is_refused(ticket), "a replica that could not read the key"


def test_nothing_of_the_caller_or_its_secret_can_be_read_in_it() -> None:
    token, text = made("evaluate", "default")
    raw = base64.urlsafe_b64decode(Replica(token).ticket(token))
    for each in (text, token.id, text.split("_")[2], token.secrets[0].digest, "default", "evaluate"):
        assert each.encode() not in raw
    assert bytes.fromhex(token.secrets[0].digest)[:8] not in raw


def test_it_is_the_same_for_half_of_its_time_and_then_another_one() -> None:
    token, _ = made("evaluate", "default")
    replica = Replica(token)
    first = replica.ticket(token)
    replica.clock.now += STEP_S - 1
    assert replica.ticket(token) == first
    replica.clock.now += 1
    assert replica.ticket(token) != first
    replica.clock.now = NOON + VALID_S - 1
    assert not replica.is_refused(first)
    replica.clock.now += 1
    assert replica.is_refused(first)


def test_it_is_for_one_flag_set() -> None:
    token, _ = made("evaluate", "*")
    replica = Replica(token)
    assert replica.is_refused(replica.ticket(token, "mine"), "default")
    assert not replica.is_refused(replica.ticket(token, "mine"), "mine")


@pytest.mark.parametrize("at", [0, 20, 60, -3])
def test_a_changed_one_is_refused(at: int) -> None:
    token, _ = made("evaluate", "default")
    replica = Replica(token)
    ticket = replica.ticket(token)
    assert replica.is_refused(ticket[:at] + ("a" if ticket[at] != "a" else "b") + ticket[at:][1:])


@pytest.mark.parametrize("text", ["", "a", "=", "ä", "\ud800", "a" * 8_193, "~", "AAAA", "A" * 64, "A=A=" * 10])
def test_what_is_no_ticket_is_refused(text: str) -> None:
    assert Replica().is_refused(text)


def test_it_ends_with_its_caller() -> None:
    token, _ = made("evaluate", "default")
    replica = Replica(token)
    ticket = replica.ticket(token)
    now = datetime.fromtimestamp(NOON, UTC)
    for edit in ({"revoked_at": now, "secrets": ()}, {"disabled": True}, {"expires_at": now}):
        replica.hold(replace(token, **edit))  # type: ignore[arg-type]
        assert replica.is_refused(ticket)
        replica.hold()
        assert replica.is_refused(ticket)
    replica = Replica(token)
    assert not replica.is_refused(ticket)


def test_a_replaced_secret_ends_its_own_tickets_and_no_others() -> None:
    token, _ = made("evaluate", "default")
    replica = Replica(token)
    old = replica.ticket(token)
    ends = datetime.fromtimestamp(NOON, UTC) + timedelta(seconds=10)
    newer = replace(token, secrets=(token.secrets[0]._replace(expires_at=ends), Secret("ab" * 32)))
    replica.hold(newer)
    assert not replica.is_refused(old)
    new = replica.ticket(newer)
    replica.clock.now += 10
    assert (replica.is_refused(old), replica.is_refused(new)) == (True, False)


def test_rights_are_those_of_now() -> None:
    token, _ = made("read", "default")
    replica = Replica(token)
    ticket = replica.ticket(token)
    replica.hold(replace(token, flag_sets=("other",)))
    assert not replica.tickets.holder(ticket, "default").scope.covers("default"), "so the route refuses it"


def test_a_ticket_is_no_credential_for_anything_else() -> None:
    token, _ = made("admin")
    replica = Replica(token)
    authority = Authority(replica.view, 5.0)
    with pytest.raises(Unauthenticated):
        authority.identify(replica.ticket(token))
