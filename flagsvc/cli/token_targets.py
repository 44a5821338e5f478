"""Where token commands work: on a server's TokenService, or on a store, where whoever can write to it is admin."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import NamedTuple, Protocol, TypeVar

from google.protobuf.duration_pb2 import Duration

from flagsvc.access.record_writer import entry_of, now
from flagsvc.access.token_writer import issued, overlap_end
from flagsvc.adapters.build import store_for
from flagsvc.api.token_service import messages
from flagsvc.cli import wait_for
from flagsvc.cli.pages import MAX_PAGE, pages
from flagsvc.cli.usage import UsageError
from flagsvc.core.access import denials, tokens
from flagsvc.core.access.denials import Denial
from flagsvc.core.access.identity import Identity, Kind
from flagsvc.core.access.roles import Role
from flagsvc.core.access.scopes import EVERY_SET
from flagsvc.core.access.token_text import digest_of, new_token
from flagsvc.core.access.tokens import Decide
from flagsvc.core.errors import TokenNotFound
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as flags
from flagsvc.generated.flagsvc.v1 import token_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import token_service_pb2_grpc as pb_grpc
from flagsvc.ports import TokenStore

T = TypeVar("T")
FIRST = "first0000000"
"""Id of the token that `token create --if-none` makes."""
OPERATOR = Identity(Kind.UNCHECKED, "store", "the command line", Role.ADMIN, EVERY_SET)
"""Who works on a store, or on a file."""


class Changed(NamedTuple):
    """A changed token; its new secret, if it has one; how far the change has spread, where a server says so."""

    token: pb.Token
    secret: str = ""
    spread: flags.WriteSpread | None = None


class Denied(NamedTuple):
    """A denial, and how far its change has spread, where a server says so."""

    denied: pb.DeniedIdentity
    spread: flags.WriteSpread | None = None


class Target(Protocol):
    """Makes, lists, changes and ends tokens. Raises FlagsvcError or grpc.RpcError."""

    def create(self, token: pb.Token) -> Changed:
        """Make a token."""

    def all(self) -> Sequence[pb.Token]:
        """Return every token, revoked ones too, by id."""

    def update(self, token: pb.Token, mask: Sequence[str]) -> Changed:
        """Change the fields in the mask."""

    def rotate(self, token_id: str, overlap_s: float) -> Changed:
        """Replace a token's secret."""

    def revoke(self, token_id: str) -> Changed:
        """End a token."""

    def deny(self, request: pb.DenyIdentityRequest) -> Denied:
        """Refuse an identity."""

    def allow(self, identity: str) -> Denied:
        """Lift a denial."""

    def denied(self) -> Sequence[pb.DeniedIdentity]:
        """Return every denial, those that are over too."""


class OnServer:
    """A running server."""

    def __init__(self, stub: pb_grpc.TokenServiceStub, args: argparse.Namespace) -> None:
        self._stub, self._args = stub, args
        self._wait, self._timeout = wait_for.request_fields(args), wait_for.deadline_s(args)

    def create(self, token: pb.Token) -> Changed:
        """Make a token."""
        made = self._stub.CreateToken(pb.CreateTokenRequest(token=token, **self._wait), timeout=self._timeout)
        return Changed(made.token, made.secret, made.spread)

    def all(self) -> Sequence[pb.Token]:
        """Return every token, read page by page."""
        request = pb.ListTokensRequest(page_size=MAX_PAGE, show_revoked=True)
        found = pages(self._stub.ListTokens, request, self._args.timeout)
        return [token for page in found for token in page.tokens]

    def update(self, token: pb.Token, mask: Sequence[str]) -> Changed:
        """Change the fields in the mask."""
        request = pb.UpdateTokenRequest(token=token, **self._wait)
        request.update_mask.paths.extend(mask)
        done = self._stub.UpdateToken(request, timeout=self._timeout)
        return Changed(done.token, "", done.spread)

    def rotate(self, token_id: str, overlap_s: float) -> Changed:
        """Replace a token's secret."""
        overlap = Duration()
        overlap.FromTimedelta(timedelta(seconds=overlap_s))
        request = pb.RotateTokenRequest(id=token_id, overlap=overlap, **self._wait)
        done = self._stub.RotateToken(request, timeout=self._timeout)
        return Changed(done.token, done.secret, done.spread)

    def revoke(self, token_id: str) -> Changed:
        """End a token."""
        done = self._stub.RevokeToken(pb.RevokeTokenRequest(id=token_id, **self._wait), timeout=self._timeout)
        return Changed(done.token, "", done.spread)

    def deny(self, request: pb.DenyIdentityRequest) -> Denied:
        """Refuse an identity."""
        request.MergeFrom(pb.DenyIdentityRequest(**self._wait))
        done = self._stub.DenyIdentity(request, timeout=self._timeout)
        return Denied(done.denied, done.spread)

    def allow(self, identity: str) -> Denied:
        """Lift a denial."""
        request = pb.AllowIdentityRequest(identity=identity, **self._wait)
        done = self._stub.AllowIdentity(request, timeout=self._timeout)
        return Denied(done.denied, done.spread)

    def denied(self) -> Sequence[pb.DeniedIdentity]:
        """Return every denial, read page by page."""
        request = pb.ListDeniedIdentitiesRequest(page_size=MAX_PAGE, show_past=True)
        found = pages(self._stub.ListDeniedIdentities, request, self._args.timeout)
        return [denied for page in found for denied in page.denied]


class OnStore:
    """A store. Replicas see a change within a second, since they look at its counter twice in that time."""

    def __init__(self, url: str) -> None:
        self._url = url

    def create(self, token: pb.Token, *, as_first: bool = False) -> Changed:
        """Make a token. `as_first`: its id is always the same, so that two programs at once make one."""
        record, secret = issued(OPERATOR, messages.grant_of(token), token_id=FIRST if as_first else "")
        return self._changed("CreateToken", record.id, tokens.create(record), secret)

    def all(self) -> Sequence[pb.Token]:
        """Return every token."""

        async def load(kept: TokenStore) -> Sequence[pb.Token]:
            return [messages.token_to_message(token) for token in (await kept.load()).tokens]

        return self._run(load)

    def update(self, token: pb.Token, mask: Sequence[str]) -> Changed:
        """Change the fields in the mask."""
        fields = messages.fields_of(token, mask)
        return self._changed("UpdateToken", token.id, tokens.update(token.id, fields, None, lambda _: None))

    def rotate(self, token_id: str, overlap_s: float) -> Changed:
        """Replace a token's secret."""
        secret = new_token(token_id)
        decide = tokens.rotate(token_id, digest_of(secret).hex(), overlap_end(overlap_s), None, lambda _: None)
        return self._changed("RotateToken", token_id, decide, secret)

    def revoke(self, token_id: str) -> Changed:
        """End a token."""
        return self._changed("RevokeToken", token_id, tokens.revoke(token_id, now()))

    def deny(self, request: pb.DenyIdentityRequest) -> Denied:
        """Refuse an identity."""
        wanted = Denial(
            name=denials.identity_name(request.identity),
            reason=request.reason,
            denied_by=str(OPERATOR),
            denied_at=now(),
            expires_at=messages.expire_time(request),
        )
        return self._denied("DenyIdentity", wanted.name, denials.deny(wanted, None), wanted.reason)

    def allow(self, identity: str) -> Denied:
        """Lift a denial."""
        name = denials.identity_name(identity)
        return self._denied("AllowIdentity", name, denials.lift(name, str(OPERATOR), now(), None))

    def denied(self) -> Sequence[pb.DeniedIdentity]:
        """Return every denial."""

        async def load(kept: TokenStore) -> Sequence[pb.DeniedIdentity]:
            return [messages.denied_to_message(each) for each in (await kept.load()).denials]

        return self._run(load)

    def _denied(self, action: str, name: str, decide: denials.Decide, reason: str = "") -> Denied:
        async def change(kept: TokenStore) -> Denied:
            await kept.write(denials.id_of(name), decide, entry_of(OPERATOR, action, name, reason))
            [found] = [each for each in (await kept.load()).denials if each.name == name]
            return Denied(messages.denied_to_message(found))

        return self._run(change)

    def _changed(self, action: str, token_id: str, decide: Decide, secret: str = "") -> Changed:
        async def change(kept: TokenStore) -> Changed:
            token = await kept.write(token_id, decide, entry_of(OPERATOR, action, token_id))
            if token is None:  # it is so already
                token = next((each for each in (await kept.load()).tokens if each.id == token_id), None)
            if token is None:
                raise TokenNotFound(token_id)
            return Changed(messages.token_to_message(token), secret)

        return self._run(change)

    def _run(self, work: Callable[[TokenStore], Awaitable[T]]) -> T:
        async def on_open_store() -> T:
            store = store_for(self._url)
            if store.tokens is None:
                raise UsageError("files keep no tokens; name another store with --store")
            await store.open()
            try:
                return await work(store.tokens)
            finally:
                await store.close()

        return asyncio.run(on_open_store())
