"""flagsvc.v1.TokenService. Each handler unpacks, calls once and packs; the interceptor checks callers."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from heapq import nsmallest
from typing import Any

import grpc

from flagsvc.access.access import Access
from flagsvc.access.token_writer import overlap_end
from flagsvc.api.common.callers import CALLER
from flagsvc.api.flag_service.messages import wait_for
from flagsvc.api.flag_service.paging import from_page_token, page_size, to_page_token
from flagsvc.api.token_service import messages
from flagsvc.core.errors import AuthOff, TokenNotFound, invalid
from flagsvc.core.validation import etag_revision
from flagsvc.generated.flagsvc.v1 import token_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import token_service_pb2_grpc as pb_grpc
from flagsvc.turns import in_turns, off_loop

Context = grpc.aio.ServicerContext[Any, Any]
_LISTING, _DENIED = "tokens", "denied"


class TokenService(pb_grpc.TokenServiceServicer):
    """Serves flagsvc.v1.TokenService. `access`: None if callers are not authenticated."""

    def __init__(self, access: Access | None) -> None:
        self._given = access

    @property
    def _access(self) -> Access:
        """Everything about tokens. Raises AuthOff: whoever connects could then make a token for later."""
        if self._given is None:
            raise AuthOff
        return self._given

    async def CreateToken(self, request: pb.CreateTokenRequest, context: Context) -> pb.CreateTokenResponse:
        """Make a token."""
        writer, grant = self._access.writer, messages.grant_of(request.token)
        change = await writer.create(CALLER.get(), grant, wait_for(request))
        return pb.CreateTokenResponse(
            token=messages.token_to_message(change.token),
            secret=change.text,
            spread=messages.spread_to_message(change.spread),
        )

    async def GetToken(self, request: pb.GetTokenRequest, context: Context) -> pb.GetTokenResponse:
        """Return one token."""
        token = self._access.view.tokens.get(_id(request.id))
        if token is None:
            raise TokenNotFound(request.id)
        return pb.GetTokenResponse(token=messages.token_to_message(token))

    async def ListTokens(self, request: pb.ListTokensRequest, context: Context) -> pb.ListTokensResponse:
        """List tokens in pages."""
        held = self._access.view.tokens
        size, after = page_size(request.page_size, default=100), from_page_token(_LISTING, request.page_token)
        ids = (each for each in held if request.show_revoked or held[each].revoked_at is None)
        found = await off_loop(_first, ids, after, size + 1)
        more = to_page_token(_LISTING, (0, found[size - 1])) if len(found) > size else ""
        page = [messages.token_to_message(held[each]) async for each in in_turns(found[:size])]
        return pb.ListTokensResponse(tokens=page, next_page_token=more)

    async def UpdateToken(self, request: pb.UpdateTokenRequest, context: Context) -> pb.UpdateTokenResponse:
        """Change the fields in the mask."""
        writer, fields = self._access.writer, messages.fields_of(request.token, list(request.update_mask.paths))
        etag = etag_revision(request.token.etag)
        change = await writer.update(CALLER.get(), _id(request.token.id), fields, etag, wait_for(request))
        token, spread = messages.token_to_message(change.token), messages.spread_to_message(change.spread)
        return pb.UpdateTokenResponse(token=token, spread=spread)

    async def RotateToken(self, request: pb.RotateTokenRequest, context: Context) -> pb.RotateTokenResponse:
        """Replace a token's secret."""
        writer, ends_at = self._access.writer, overlap_end(messages.overlap_s(request))
        etag = etag_revision(request.etag)
        change = await writer.rotate(CALLER.get(), _id(request.id), ends_at, etag, wait_for(request))
        return pb.RotateTokenResponse(
            token=messages.token_to_message(change.token),
            secret=change.text,
            spread=messages.spread_to_message(change.spread),
        )

    async def RevokeToken(self, request: pb.RevokeTokenRequest, context: Context) -> pb.RevokeTokenResponse:
        """End a token for ever."""
        writer, etag = self._access.writer, etag_revision(request.etag)
        change = await writer.revoke(CALLER.get(), _id(request.id), etag, wait_for(request))
        token, spread = messages.token_to_message(change.token), messages.spread_to_message(change.spread)
        return pb.RevokeTokenResponse(token=token, spread=spread)

    async def DenyIdentity(self, request: pb.DenyIdentityRequest, context: Context) -> pb.DenyIdentityResponse:
        """Refuse an identity that others prove."""
        denials, ends_at = self._access.denials, messages.expire_time(request)
        found = await denials.deny(CALLER.get(), request.identity, request.reason, ends_at, wait_for(request))
        denied, spread = messages.denied_to_message(found[0]), messages.spread_to_message(found[1])
        return pb.DenyIdentityResponse(denied=denied, spread=spread)

    async def AllowIdentity(self, request: pb.AllowIdentityRequest, context: Context) -> pb.AllowIdentityResponse:
        """Lift a denial."""
        found = await self._access.denials.allow(CALLER.get(), request.identity, wait_for(request))
        denied, spread = messages.denied_to_message(found[0]), messages.spread_to_message(found[1])
        return pb.AllowIdentityResponse(denied=denied, spread=spread)

    async def ListDeniedIdentities(
        self, request: pb.ListDeniedIdentitiesRequest, context: Context
    ) -> pb.ListDeniedIdentitiesResponse:
        """List denials in pages."""
        view, at = self._access.denials.view, datetime.now(UTC)
        size, after = page_size(request.page_size, default=100), from_page_token(_DENIED, request.page_token)
        held = view.all
        names = (each for each, denial in held.items() if request.show_past or denial.is_in_force(at))
        found = await off_loop(_first, names, after, size + 1)
        more = to_page_token(_DENIED, (0, found[size - 1])) if len(found) > size else ""
        page = [messages.denied_to_message(held[each]) async for each in in_turns(found[:size])]
        return pb.ListDeniedIdentitiesResponse(denied=page, next_page_token=more)

    async def GetCaller(self, request: pb.GetCallerRequest, context: Context) -> pb.GetCallerResponse:
        """Return who the caller is to this server."""
        return messages.caller_to_message(CALLER.get())


def _first(names: Iterable[str], after: tuple[int, str] | None, most: int) -> list[str]:
    """Return the first names in order behind the position of a page token."""
    return nsmallest(most, (each for each in names if after is None or each > after[1]))


def _id(token_id: str) -> str:
    if not token_id.isalnum() or len(token_id) > 64:  # noqa: PLR2004  longer than ids are
        raise invalid("id", token_id, "the id of a token: letters and digits")
    return token_id
