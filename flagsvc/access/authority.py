"""Who a caller is, from its credential. Synchronous and in memory: no call waits for it."""

from __future__ import annotations

import math
import time
from hashlib import sha256

from flagsvc.access.proven import ProvenCallers
from flagsvc.access.sessions import ENDED, Sessions
from flagsvc.access.tickets import Tickets
from flagsvc.access.token_view import TokenView
from flagsvc.core.access.identity import Identity, Kind
from flagsvc.core.access.roles import EVALUATING, Role
from flagsvc.core.access.token_text import PREFIX, NotAToken, id_in
from flagsvc.core.errors import AccessUnknown, FlagsvcError, Unauthenticated

OWN = f"{PREFIX}_"
"""What this server's own tokens begin with."""
MAX_RECOGNIZED = 5_000
"""Callers found by one lookup. Fewer than the JWTs that are held, so that none of those that are in use is dropped."""


class Authority:
    """Recognizes callers by the tokens of `view`, and ends their `sessions`.

    A caller whom it has recognized is found by one lookup until anybody's rights may have changed; only its time is
    looked at again at each call.
    """

    def __init__(self, view: TokenView, staleness_bound_s: float) -> None:
        self._view, self._staleness_bound_s = view, staleness_bound_s
        self.sessions = Sessions(self.current, view.forget_recognized)
        self.proven: ProvenCallers | None = None
        """Who recognizes other callers; None if nobody does."""
        self.tickets = Tickets(view, lambda: self.proven)

    def identify(self, credential: str) -> Identity | None:
        """Return who sends this credential; None if it must be verified first, by `verify`.

        Raises Unauthenticated, or AccessUnknown before the tokens are read.
        """
        digest = sha256(credential.encode("utf-8", "surrogatepass")).digest()
        identity = self._view.recognized.get(digest)
        if identity is not None and identity.expires_at > time.time():
            return identity
        identity = self._found(credential, digest)
        if identity is not None:
            if len(self._view.recognized) >= MAX_RECOGNIZED:
                self._view.forget_recognized()
            self._view.recognized[digest] = identity
        return identity

    def recognized(self, credential: str) -> Identity | None:
        """Return who sends this credential, if `identify` has found it since rights changed last.

        It may run in any thread, because it changes nothing: what another thread kept here could be older than a
        revocation.
        """
        digest = sha256(credential.encode("utf-8", "surrogatepass")).digest()
        identity = self._view.recognized.get(digest)
        return identity if identity is not None and identity.expires_at > time.time() else None

    async def verify(self, credential: str, peer: str) -> None:
        """Verify a credential for `identify`. Raises Unauthenticated, PermissionDenied, AccessUnknown or Overloaded."""
        if self.proven is not None:
            await self.proven.verify(credential, peer)

    def current(self, identity: Identity) -> Identity | None:
        """Return a caller with its present rights; None if its credential is not valid any more."""
        if not identity.key:
            return identity  # it has no credential that could end
        if identity.kind is not Kind.TOKEN:
            return identity if self.proven is not None and self.proven.is_current(identity) else None
        found = self._view.identity(identity.key)
        return found if found is not None and found.expires_at > time.time() else None

    def recheck(self, identity: Identity) -> Identity:
        """Return a caller with its present rights. Raises Unauthenticated if it has none any more."""
        if identity.expires_at == math.inf and identity.key and self._view.identity(identity.key) is identity:
            return identity  # as nearly always
        found = self.current(identity)
        if found is None:
            raise Unauthenticated(ENDED)
        return found

    def check_known(self, role: Role) -> None:
        """Raise AccessUnknown if a revocation may have been missed, unless the call only evaluates."""
        if role not in EVALUATING and time.monotonic() - self._view.verified_at > self._staleness_bound_s:
            raise AccessUnknown(
                "this replica has not been able to verify the rights of callers for longer than its staleness bound,"
                " and only evaluates flags until it can; retry, another replica may answer"
            )

    def _found(self, credential: str, digest: bytes) -> Identity | None:
        """Look a caller up. Returns and raises as `identify`."""
        if self.proven is not None and not credential.startswith(OWN):
            return self.proven.known(credential)
        identity = self._view.identity(digest)
        if identity is None:
            raise self._unknown(credential)
        if identity.expires_at <= time.time():
            raise Unauthenticated("the token has expired, or was replaced by a newer one")
        self._view.used.add(identity.id)
        return identity

    def _unknown(self, credential: str) -> FlagsvcError:
        if not credential.startswith(OWN):
            return Unauthenticated(f"the credential is no token of flagsvc, which begins with {PREFIX}_")
        try:
            token_id = id_in(credential)
        except NotAToken as problem:
            return Unauthenticated(f"the token is not valid: {problem}")
        if not self._view.is_loaded and not self._view.is_revoked(token_id):
            return AccessUnknown("this replica has not read the tokens yet; retry")
        return Unauthenticated("the token is not valid: it is unknown, revoked or disabled")
