"""The check of every call of one listener, by the table of permissions.

In two steps: from its headers alone, before anything of its body is read, who calls and with which role; then, on the
parsed message, for which flag set. Both are synchronous and in memory.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from operator import attrgetter, methodcaller
from typing import Any, Protocol

from flagsvc.access.authority import Authority
from flagsvc.access.sessions import Session
from flagsvc.api.common.callers import CALLER, Metadata, credential_in
from flagsvc.api.common.contexts import PROVEN
from flagsvc.api.common.listener import Listener
from flagsvc.api.common.permissions import Rule
from flagsvc.core.access.decision import authorize
from flagsvc.core.access.identity import Identity
from flagsvc.core.access.roles import EVALUATING, Role
from flagsvc.core.errors import AccessUnknown, PermissionDenied, Unauthenticated
from flagsvc.core.validation import MAX_KEY

_NEEDED = "this needs a credential: send authorization: Bearer TOKEN, or x-api-key: TOKEN"
_SCALARS = frozenset({"explain"})
"""Fields of the table that are no messages: these are never false."""
_MAX_KEPT = 2_000
"""Decisions that one method of one listener keeps."""
_SHORT = EVALUATING | {Role.ADMIN}
"""Roles of unary calls that are not ended half way: evaluations take milliseconds, and a caller may revoke itself."""


CERTIFICATE = "x509_pem_cert"
"""Where gRPC has the client certificate that TLS has verified."""


Call = Callable[[Any, Any], Awaitable[Any]]
"""A unary method's handler."""


class Connection(Protocol):
    """What a call came by: the context of gRPC's calls."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Return what TLS knows of the client."""
        ...


def prove(caller: Identity) -> None:
    """Let the call that runs now have the fields of the evaluation context that its caller's credential proves."""
    if caller.context is not None:
        PROVEN.set(caller.context)


class Check:
    """What one method of one listener needs."""

    def __init__(self, rule: Rule, authority: Authority, listener: Listener) -> None:
        assert rule.role is not None  # noqa: S101  what needs no credential has no check
        assert rule.set_of is not None or not rule.fields  # noqa: S101  `permit` looks at fields of a flag set's calls
        self._role, self._set_of, self._fields = (
            rule.role,
            rule.set_of,
            tuple(
                (attrgetter(field) if field in _SCALARS else methodcaller("HasField", field), role)
                for field, role in rule.fields.items()
            ),
        )
        self._authority, self._listener, self._selectors = authority, listener, listener.selectors
        self._only_evaluates, self._is_short = rule.role in EVALUATING, rule.role in _SHORT
        self._admitted: set[Identity] = set()
        """Callers with the role. A caller with its rights is an object that does not change."""
        self._allowed: set[tuple[Identity, str]] = set()
        """Callers with the role for a flag set."""

    def admit(self, metadata: Metadata, connection: Connection | None = None) -> Identity | None:
        """Return who calls, with a role that is enough; None if its credential must be verified first, by `verified`.

        `connection`: what the call came by, if it may have a client certificate.
        Raises Unauthenticated, PermissionDenied or AccessUnknown.
        """
        credential = credential_in(metadata)
        if credential is not None:
            caller = self._authority.identify(credential)
            if caller is None:
                return None
        elif connection is not None and (holder := self._holder(connection)) is not None:
            caller = holder
        elif self._listener.anonymous is not None:
            caller = self._listener.anonymous
        else:
            raise Unauthenticated(_NEEDED)
        if caller not in self._admitted:
            self._admit(caller)
        if not self._only_evaluates:
            self._authority.check_known(self._role)
        return caller

    def known(self, metadata: Metadata) -> Identity | None:
        """Return who calls, with a role that is enough; None if `admit` has to look its credential up.

        For calls that only evaluate, in a thread of its own: each thread has its own checks. Raises as `admit`.
        """
        credential = credential_in(metadata)
        caller = self._listener.anonymous if credential is None else self._authority.recognized(credential)
        if caller is not None and caller not in self._admitted:
            self._admit(caller)
        return caller

    async def verified(self, metadata: Metadata, peer: str, connection: Connection | None = None) -> Identity:
        """Verify the credential, and return who calls. Raises as `admit`, and Overloaded."""
        caller = self.admit(metadata, connection)
        if caller is None:
            await self._authority.verify(credential_in(metadata) or "", peer)
            caller = self.admit(metadata, connection)
        if caller is None:
            raise AccessUnknown("the credential was withdrawn while it was verified; retry")
        return caller

    def holder_of(self, ticket: str, metadata: Metadata) -> Identity:
        """Return who has a ticket for the flag set of this call. Raises as `admit`."""
        assert self._set_of is not None  # noqa: S101  tickets are for a flag set
        if credential_in(metadata) is not None:
            raise Unauthenticated("there is more than one credential; send a ticket or a header, once")
        caller = self._authority.tickets.holder(ticket, self._set_of(None, metadata, self._selectors))
        if caller not in self._admitted:
            self._admit(caller)
        return caller

    def _holder(self, connection: Connection) -> Identity | None:
        proven = self._authority.proven
        if proven is None or not proven.has_certificates:
            return None
        certificate = next(iter(connection.auth_context().get(CERTIFICATE, ())), None)
        return proven.holder(certificate) if certificate is not None else None

    def permit(self, caller: Identity, request: Any, metadata: Metadata) -> tuple[str, ...]:
        """Return the flag sets of a call that is allowed. Raises as `admit`, and InvalidRequest.

        The caller is looked up once more: its body may have taken long to arrive.
        """
        return self.permitted(self._authority.recheck(caller), request, metadata)

    def permitted(self, caller: Identity, request: Any, metadata: Metadata) -> tuple[str, ...]:
        """Return the flag sets of a call that is allowed to a caller as it is now. Raises as `permit`."""
        if self._set_of is None:
            if caller not in self._admitted:
                self._admit(caller)
            return ()
        flag_set = self._set_of(request, metadata, self._selectors)
        if (caller, flag_set) not in self._allowed:
            self._allow(caller, flag_set)
        for is_set, role in self._fields:
            if is_set(request):
                self._authority.check_known(role)
                authorize(caller, role, (flag_set,))
        return (flag_set,)

    def _admit(self, caller: Identity) -> None:
        """Decide by the role alone, and keep the decision if it is a yes. Raises PermissionDenied."""
        authorize(caller, self._role)
        if len(self._admitted) >= _MAX_KEPT:
            self._admitted.clear()
        self._admitted.add(caller)

    def _allow(self, caller: Identity, flag_set: str) -> None:
        """Decide, and keep the decision if it is a yes. Raises PermissionDenied."""
        authorize(caller, self._role, (flag_set,))
        if len(flag_set) > MAX_KEY:
            return  # no flag set has such a name, so nobody asks for it again
        if len(self._allowed) >= _MAX_KEPT:
            self._allowed.clear()
        self._allowed.add((caller, flag_set))

    def answered(self, call: Call, caller: Identity, request: Any, context: Any, metadata: Metadata) -> Awaitable[Any]:
        """Return what a unary call awaits for its answer, if the caller, as it is now, may have it.

        It is no coroutine, which would cost each call another one.
        """
        flag_sets = self.permitted(caller, request, metadata)
        prove(caller)
        CALLER.set(caller)
        return call(request, context) if self._is_short else self._in_session(call, caller, request, context, flag_sets)

    async def _in_session(
        self, call: Call, caller: Identity, request: Any, context: Any, flag_sets: tuple[str, ...]
    ) -> Any:
        with self._authority.sessions.open(caller, self._role) as session:
            session.flag_sets = flag_sets
            return await call(request, context)

    @contextmanager
    def open(self, caller: Identity) -> Iterator[Session]:
        """Register a stream that runs in this task, which ends when its caller may not have it any more."""
        CALLER.set(caller)
        with self._authority.sessions.open(caller, self._role) as session:
            yield session

    def narrow(self, session: Session, request: Any, metadata: Metadata) -> None:
        """Check a stream's message, once it is read."""
        session.flag_sets = self.permit(session.caller, request, metadata)


class Closed(Check):
    """The check of a method that is not in the table: nobody may call it."""

    def __init__(self, authority: Authority, listener: Listener) -> None:
        super().__init__(Rule(Role.ADMIN), authority, listener)

    def admit(self, metadata: Metadata, connection: Connection | None = None) -> Identity | None:
        """Raise PermissionDenied, for callers who are known at all."""
        if super().admit(metadata, connection) is None:
            return None
        raise PermissionDenied("this method is not in the server's table of permissions, so nobody may call it")


def check_of(rule: Rule | None, authority: Authority | None, listener: Listener) -> Check | None:
    """Return the check of a method or route; None where callers are not authenticated, or need no credential.

    `rule`: its row in the table, if it has one.
    """
    if authority is None:
        return None
    if rule is None:
        return Closed(authority, listener)
    return None if rule.role is None else Check(rule, authority, listener)
