"""Lists of all tokens, denials and audit entries: whole pages, and nobody else waits for one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest

from flagsvc.access.denial_view import DenialView
from flagsvc.access.token_view import TokenView
from flagsvc.api.audit_service.service import AuditService
from flagsvc.api.token_service.service import TokenService
from flagsvc.core.access.denials import Denial
from flagsvc.core.audit import AuditEntry, place_of
from flagsvc.generated.flagsvc.v1 import audit_service_pb2 as audit
from flagsvc.generated.flagsvc.v1 import token_service_pb2 as pb
from flagsvc.ports import StoredTokens
from tests.access.callers import made

COUNT = 250
PAGE = 200
NOW = datetime.now(UTC)
NAMES = [f"jwt:issuer|{number:04d}" for number in range(COUNT)]
IDS = [f"id{number:04d}" for number in range(COUNT)]
T = TypeVar("T")
CONTEXT = cast("Any", None)


@pytest.fixture
def tokens() -> TokenService:
    view, denials, token = TokenView(), DenialView(), made("read")[0]
    own = [replace(token, id=each, secrets=()) for each in reversed(IDS)]
    view.hold(StoredTokens(1, own), time.monotonic())
    all_denied = [Denial(name=name, reason="", denied_by="x", denied_at=NOW) for name in reversed(NAMES)]
    denials.hold(all_denied, time.monotonic(), NOW)
    return TokenService(cast("Any", SimpleNamespace(view=view, denials=SimpleNamespace(view=denials))))


async def in_turns(call: Awaitable[T], monkeypatch: pytest.MonkeyPatch) -> T:
    """Return a call's answer. Where each turn has no time, others must have had one for each element of the page."""
    monkeypatch.setattr("flagsvc.turns.TURN_S", 0.0)
    rounds = 0

    async def other() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    answer = await call
    task.cancel()
    assert rounds >= PAGE
    return answer


async def test_tokens(tokens: TokenService, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await in_turns(tokens.ListTokens(pb.ListTokensRequest(page_size=PAGE), CONTEXT), monkeypatch)
    assert [token.id for token in first.tokens] == IDS[:PAGE]
    rest = await tokens.ListTokens(pb.ListTokensRequest(page_token=first.next_page_token), CONTEXT)
    assert ([token.id for token in rest.tokens], rest.next_page_token) == (IDS[PAGE:], "")


async def test_denials(tokens: TokenService, monkeypatch: pytest.MonkeyPatch) -> None:
    request = pb.ListDeniedIdentitiesRequest(page_size=PAGE)
    first = await in_turns(tokens.ListDeniedIdentities(request, CONTEXT), monkeypatch)
    assert [denied.identity for denied in first.denied] == NAMES[:PAGE]
    request = pb.ListDeniedIdentitiesRequest(page_token=first.next_page_token)
    rest = await tokens.ListDeniedIdentities(request, CONTEXT)
    assert ([denied.identity for denied in rest.denied], rest.next_page_token) == (NAMES[PAGE:], "")


async def test_audit_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [AuditEntry(at=NOW, actor="x", action="y", subject=each, place=place_of(NOW, 1, each)) for each in IDS]

    async def page(_query: object, size: int) -> list[AuditEntry]:
        return entries[:size]

    service = AuditService(cast("Any", SimpleNamespace(page=page)))
    request = audit.ListAuditEntriesRequest(page_size=PAGE)
    found = await in_turns(service.ListAuditEntries(request, CONTEXT), monkeypatch)
    assert [entry.subject for entry in found.entries] == IDS[:PAGE]
