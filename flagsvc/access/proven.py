"""What the middle needs of those who recognize callers by an issuer's signature, or by a client certificate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from flagsvc.core.access.identity import Identity
from flagsvc.core.errors import AccessUnknown
from flagsvc.core.model import JsonValue
from flagsvc.ports import Problem


class ProvenCallers(Protocol):
    """Recognizes callers who have no token of this server's own."""

    @property
    def has_certificates(self) -> bool:
        """Whether a client certificate can give its holder a right."""
        ...

    def known(self, credential: str) -> Identity | None:
        """Return who sends this credential; None if it must be verified first."""
        ...

    async def verify(self, credential: str, peer: str) -> None:
        """Verify a credential, so that it is known. Raises why it is refused, or cannot be verified now."""
        ...

    def holder(self, certificate: bytes) -> Identity:
        """Return who has this client certificate (PEM), which TLS has verified. Raises why it is refused."""
        ...

    def deny(self, names: frozenset[str]) -> None:
        """Refuse these callers from now on, named as `Identity` is in texts, and end what they have open."""
        ...

    def reference(self, identity: Identity) -> str:
        """Return what a caller rests on, as every replica with the same configuration names it; empty if on nothing."""
        ...

    def referred(self, reference: str, caller: Identity) -> Identity | None:
        """Return a caller who is known by this reference on some replica; None if that is valid no more.

        `caller`: its id, role, flag sets and time.
        """
        ...

    def evidence(self, identity: Identity) -> Mapping[str, JsonValue]:
        """Return, as JSON, what `granted` decides by."""
        ...

    def granted(self, kind: str, name: str, evidence: Mapping[str, JsonValue]) -> Identity | None:
        """Return a caller with the rights that the rules of now give it, without its credential; None: no rights."""
        ...

    def problems(self) -> Iterable[Problem]:
        """Return what does not work now, for the status."""
        ...

    def is_current(self, identity: Identity) -> bool:
        """Whether a caller that was recognized before may still go on."""
        ...


class NotYet:
    """Stands for others until it is known who of them is denied: nobody is recognized."""

    def __init__(self, proven: ProvenCallers) -> None:
        self._proven = proven

    @property
    def has_certificates(self) -> bool:
        """Whether a client certificate will give its holder a right."""
        return self._proven.has_certificates

    def known(self, credential: str) -> Identity | None:
        """Raise AccessUnknown."""
        del credential
        raise _unknown()

    async def verify(self, credential: str, peer: str) -> None:
        """Raise AccessUnknown."""
        del credential, peer
        raise _unknown()

    def holder(self, certificate: bytes) -> Identity:
        """Raise AccessUnknown."""
        del certificate
        raise _unknown()

    def deny(self, names: frozenset[str]) -> None:
        """Pass it on."""
        self._proven.deny(names)

    def reference(self, identity: Identity) -> str:
        """Pass it on."""
        return self._proven.reference(identity)

    def referred(self, reference: str, caller: Identity) -> Identity | None:
        """Raise AccessUnknown."""
        del reference, caller
        raise _unknown()

    def evidence(self, identity: Identity) -> Mapping[str, JsonValue]:
        """Pass it on."""
        return self._proven.evidence(identity)

    def granted(self, kind: str, name: str, evidence: Mapping[str, JsonValue]) -> Identity | None:
        """Raise AccessUnknown."""
        del kind, name, evidence
        raise _unknown()

    def problems(self) -> Iterable[Problem]:
        """Pass it on."""
        return self._proven.problems()

    def is_current(self, identity: Identity) -> bool:
        """Pass it on."""
        return self._proven.is_current(identity)


def _unknown() -> AccessUnknown:
    return AccessUnknown("this replica has not read yet who is denied; retry")
