"""A server that authenticates its callers, and one credential of each kind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc

from flagsvc.access.token_writer import Grant, issued
from flagsvc.adapters.build import store_for
from flagsvc.core.access import tokens
from flagsvc.core.access.identity import UNCHECKED
from flagsvc.core.access.roles import Role
from flagsvc.core.access.token_text import new_id, new_token
from flagsvc.core.access.tokens import Token
from flagsvc.server import Server
from tests.replicas import Client, replica, until_serving

PASSED = "passed"
NONE, UNKNOWN, MISTYPED, OTHER_SCHEME, TWO = "no credential", "unknown", "mistyped", "another scheme", "two"
EXPIRED, REVOKED, DISABLED = "expired", "revoked", "disabled"
ROLES = tuple(role.value for role in Role)
FOREIGN = tuple(f"{role} of another set" for role in ("public", "evaluate", "read", "toggle", "write"))
Headers = tuple[tuple[str, str], ...]


def made(role: str, *flag_sets: str) -> tuple[Token, str]:
    """Return a token for a store, and its text. Without flag sets it is for all."""
    return issued(UNCHECKED, Grant(f"test {role}", Role(role), flag_sets or ("*",)))


async def stored(store_url: str, *made_tokens: Token) -> None:
    """Write tokens into a store that no server has open yet."""
    store = store_for(store_url)
    await store.open()
    assert store.tokens is not None
    for token in made_tokens:
        await store.tokens.write(token.id, tokens.create(token))
    await store.close()


def bearer(text: str) -> Headers:
    return (("authorization", f"Bearer {text}"),)


async def credentials(store_url: str) -> dict[str, Headers]:
    """Store a token of each kind; return the headers of callers who have them, by what they are."""
    now = datetime.now(UTC)
    admin, admin_text = made("admin")
    edits: Mapping[str, dict[str, Any]] = {
        EXPIRED: {"created_at": now - timedelta(days=2), "expires_at": now - timedelta(days=1)},
        REVOKED: {"revoked_at": now, "secrets": ()},
        DISABLED: {"disabled": True},
    }
    found: dict[str, tuple[Token, str]] = {}
    for name, edit in edits.items():
        token, text = made("admin")
        found[name] = replace(token, **edit), text
    for role in ROLES:
        found[role] = made(role, "*" if role in {"admin", "operate"} else "default")
    for name in FOREIGN:
        found[name] = made(name.partition(" ")[0], "other", "defaul", "default-*")
    await stored(store_url, admin, *(token for token, _ in found.values()))
    return {
        NONE: (),
        UNKNOWN: bearer(new_token(new_id())),
        MISTYPED: bearer(admin_text[:-1] + ("a" if admin_text[-1] != "a" else "b")),
        OTHER_SCHEME: (("authorization", f"Basic {admin_text}"),),
        TWO: (*bearer(admin_text), ("x-api-key", admin_text)),
        **{name: bearer(text) for name, (_, text) in found.items()},
    }


@asynccontextmanager
async def guarded(store_url: str, **settings: Any) -> AsyncIterator[tuple[Client, Server]]:
    """A server in this process with FLAGSVC_AUTH=required, ready."""
    async with replica(store_url=store_url, auth="required", **settings) as (client, server):
        await until_serving(client)
        yield client, server


REFUSALS = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED"})
UNDECIDED = frozenset({"CANCELLED", "DEADLINE_EXCEEDED", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "UNKNOWN", "INTERNAL"})
"""Statuses that say nothing of whether the caller may make the call."""
MAX_ATTEMPTS = 4


async def outcome(begin: Callable[[], Any]) -> str:
    """Return `passed` for a call that was not refused for its caller, else the name of its status.

    A busy machine may end a call before it was decided, so that one is made again.
    """
    code = ""
    for _ in range(MAX_ATTEMPTS):
        call = begin()
        try:
            await (call if isinstance(call, grpc.aio.UnaryUnaryCall) else call.read())
        except grpc.aio.AioRpcError as error:
            code = error.code().name
            if code not in UNDECIDED:
                return code if code in REFUSALS else PASSED
        else:
            return PASSED
        finally:
            call.cancel()
    return code


def wrong(outcomes: Iterable[tuple[str, str, str, str]]) -> list[str]:
    """Return where what happened is not what was expected."""
    return [f"{path} as {who}: {found}, not {want}" for path, who, found, want in outcomes if found != want]
