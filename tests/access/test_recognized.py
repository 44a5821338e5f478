"""A caller who was recognized is found by one lookup, and refused at the first call after its rights have ended."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from flagsvc.access.authority import MAX_RECOGNIZED, Authority
from flagsvc.access.token_view import TokenView
from flagsvc.core.access.identity import UNCHECKED, Identity, Kind
from flagsvc.core.access.token_text import digest_of
from flagsvc.core.errors import Unauthenticated
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import token_service_pb2 as tokens
from flagsvc.generated.flagsvc.v1 import token_service_pb2_grpc as tokens_grpc
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.ports import StoredTokens
from flagsvc.server import Server
from flagsvc.tokens_file.entries import line_of
from tests.access.callers import Headers, bearer, guarded, made, stored
from tests.access.issuing import AUDIENCE, KUBERNETES, ec_key, jwks, kubernetes_claims, signed
from tests.replicas import Client

KEY = ec_key()
FILED, FILED_TEXT = made("evaluate", "default")
DENIED, MISSING = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED


class Served:
    """A server with an admin's credential, a tokens file and an issuers file."""

    def __init__(self, client: Client, server: Server, folder: Path, root: Headers) -> None:
        self.client, self.server, self.folder, self.root = client, server, folder, root
        self.tokens = tokens_grpc.TokenServiceStub(client.channel)

    async def created(self) -> tuple[str, str]:
        """Make a token; return its id and its text."""
        token = tokens.Token(name="ci", role=tokens.ROLE_EVALUATE, flag_sets=["default"])
        answer = await self.tokens.CreateToken(tokens.CreateTokenRequest(token=token), metadata=self.root)
        return answer.token.id, answer.secret

    async def code(self, text: str) -> grpc.StatusCode:
        try:
            await self.client.stub.EvaluateFlag(pb.EvaluateFlagRequest(flag_key="on"), metadata=bearer(text))
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    def is_recognized(self, text: str) -> bool:
        assert self.server.replica.access is not None
        return digest_of(text) in self.server.replica.access.view.recognized

    async def update(self, token_id: str, path: str, **fields: Any) -> None:
        request = tokens.UpdateTokenRequest(token=tokens.Token(id=token_id, **fields), update_mask={"paths": [path]})
        await self.tokens.UpdateToken(request, metadata=self.root)


def issuers(folder: Path, grant: str = "evaluate@default") -> str:
    rules = [{"when": [{"claim": "sub", "prefix": "system:serviceaccount:"}], "grant": grant}]
    entry = {"issuer": KUBERNETES, "audience": AUDIENCE, "jwks": f"file:{folder}/keys.json", "rules": rules}
    return json.dumps({"issuers": [entry]})


@pytest.fixture(scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    folder = tmp_path_factory.mktemp("recognized")
    (folder / "keys.json").write_bytes(jwks(k1=KEY))
    (folder / "issuers.json").write_text(issuers(folder))
    (folder / "tokens.yaml").write_text(line_of(FILED))
    store_url, (admin, text) = f"sqlite:///{folder}/flags.db", made("admin")
    await stored(store_url, admin)
    files = {"jwt_issuers_file": str(folder / "issuers.json"), "tokens_file": str(folder / "tokens.yaml")}
    async with guarded(store_url, **files) as (client, server):
        flag = types.Flag(key="on", status=types.FLAG_STATUS_ENABLED)
        await client.stub.CreateFlag(pb.CreateFlagRequest(flag=flag), metadata=bearer(text))
        yield Served(client, server, folder, bearer(text))


async def revoke(served: Served, token_id: str) -> None:
    await served.tokens.RevokeToken(tokens.RevokeTokenRequest(id=token_id), metadata=served.root)


async def disable(served: Served, token_id: str) -> None:
    await served.update(token_id, "disabled", disabled=True)


async def narrow(served: Served, token_id: str) -> None:
    await served.update(token_id, "flag_sets", flag_sets=["other"])


async def lessen(served: Served, token_id: str) -> None:
    await served.update(token_id, "role", role=tokens.ROLE_PUBLIC)


async def rotate(served: Served, token_id: str) -> None:
    request = tokens.RotateTokenRequest(id=token_id, overlap=Duration())  # none: the one before it ends at once
    await served.tokens.RotateToken(request, metadata=served.root)


@pytest.mark.parametrize(
    ("end", "code"),
    [(revoke, MISSING), (disable, MISSING), (rotate, MISSING), (narrow, DENIED), (lessen, DENIED)],
)
async def test_a_token_that_was_used_is_refused_at_the_next_call(
    served: Served, end: Callable[[Served, str], Awaitable[None]], code: grpc.StatusCode
) -> None:
    token_id, text = await served.created()
    assert [await served.code(text) for _ in range(2)] == [grpc.StatusCode.OK] * 2
    assert served.is_recognized(text)
    await end(served, token_id)
    assert await served.code(text) is code


async def test_a_token_of_a_file_is_refused_once_it_is_taken_out(served: Served) -> None:
    assert [await served.code(FILED_TEXT) for _ in range(2)] == [grpc.StatusCode.OK] * 2
    (served.folder / "tokens.yaml").write_text("")
    following = served.server._tokens_file.file
    assert following is not None
    await following.look()
    assert await served.code(FILED_TEXT) is MISSING


async def deny(served: Served, subject: str) -> None:
    request = tokens.DenyIdentityRequest(identity=f"jwt:{KUBERNETES}|{subject}")
    await served.tokens.DenyIdentity(request, metadata=served.root)


async def change_rules(served: Served, _: str) -> None:
    (served.folder / "issuers.json").write_text(issuers(served.folder, "evaluate@other"))
    assert served.server._issuers is not None
    await served.server._issuers._look()


async def withdraw_key(served: Served, _: str) -> None:
    (served.folder / "keys.json").write_bytes(jwks(k1=ec_key("next")))
    assert served.server._issuers is not None
    await served.server._issuers.tokens.issuers[KUBERNETES]._read()


@pytest.mark.parametrize(("end", "code"), [(deny, DENIED), (change_rules, DENIED), (withdraw_key, MISSING)])
async def test_a_jwt_that_was_used_is_refused_at_the_next_call(
    served: Served, end: Callable[[Served, str], Awaitable[None]], code: grpc.StatusCode
) -> None:
    claims = kubernetes_claims(account=end.__name__)
    text = signed(claims, KEY)
    assert [await served.code(text) for _ in range(2)] == [grpc.StatusCode.OK] * 2
    assert served.is_recognized(text)
    await end(served, claims["sub"])
    assert await served.code(text) is code
    if end is change_rules:
        (served.folder / "issuers.json").write_text(issuers(served.folder))
        await served.server._issuers._look()  # type: ignore[union-attr]


class Proven:
    """Knows one caller until its time is over."""

    def __init__(self, caller: Identity, clock: SimpleNamespace) -> None:
        self._caller, self._clock, self.asked = caller, clock, 0

    def known(self, _credential: str) -> Identity | None:
        self.asked += 1
        return self._caller if self._clock.time() < self._caller.expires_at else None


def test_the_time_of_a_credential_is_looked_at_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(time=lambda: 1_000.0, monotonic=time.monotonic)
    monkeypatch.setattr("flagsvc.access.authority.time", clock)
    token, text = made("evaluate")
    secrets = (token.secrets[0]._replace(expires_at=datetime.fromtimestamp(2_000, UTC)),)
    view = TokenView()
    view.hold(StoredTokens(1, [replace(token, secrets=secrets)]), time.monotonic())
    authority = Authority(view, 5.0)
    proven = Proven(replace(UNCHECKED, kind=Kind.JWT, expires_at=2_000.0, key=b"k"), clock)
    authority.proven = proven  # type: ignore[assignment]
    for _ in range(3):
        assert authority.identify(text) is not None
        assert authority.identify("a.b.c") is not None
    assert proven.asked == 1
    clock.time = lambda: 2_000.0
    with pytest.raises(Unauthenticated, match="has expired"):
        authority.identify(text)
    assert authority.identify("a.b.c") is None, "it must be verified"


def test_who_is_recognized_is_bounded_and_forgotten_when_rights_change() -> None:
    token, text = made("evaluate")
    view = TokenView()
    view.hold(StoredTokens(1, [token]), time.monotonic())
    authority = Authority(view, 5.0)
    clock = SimpleNamespace(time=time.time)
    authority.proven = Proven(replace(UNCHECKED, kind=Kind.JWT, key=b"k"), clock)  # type: ignore[assignment]
    for number in range(MAX_RECOGNIZED + 10):
        authority.identify(f"{number}.b.c")
        assert len(view.recognized) <= MAX_RECOGNIZED
    authority.identify(text)
    authority.sessions.check_all()
    assert not view.recognized


def test_a_token_counts_as_used_again_after_its_use_was_noted() -> None:
    token, text = made("evaluate")
    view = TokenView()
    view.hold(StoredTokens(1, [token]), time.monotonic())
    authority = Authority(view, 5.0)
    for _ in range(2):
        authority.identify(text)
        authority.identify(text)
        assert view.take_used() == {token.id}
    assert view.take_used() == set()
