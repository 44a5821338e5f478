"""What the middle needs of those who recognize callers by an issuer's signature, or by a client certificate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from flagsvc.core.access.identity import Identity
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

    def reference(self, identity: Identity) -> str:
        """Return what a caller rests on, as every replica with the same configuration names it; empty if on nothing."""
        ...

    def referred(self, reference: str, caller: Identity) -> Identity | None:
        """Return a caller who is known by this reference on some replica; None if that is valid no more.

        `caller`: its id, role, flag sets and time.
        """
        ...

    def problems(self) -> Iterable[Problem]:
        """Return what does not work now, for the status."""
        ...

    def is_current(self, identity: Identity) -> bool:
        """Whether a caller that was recognized before may still go on."""
        ...
