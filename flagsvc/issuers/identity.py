"""Callers whom an issuer or a certificate has proven."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flagsvc.core.access.identity import Identity
from flagsvc.core.model import JsonValue


class Proof:
    """What identities rest on: an issuer's key, or the rules for certificates. Withdrawn, it ends all of them at once.

    So a withdrawal looks at no list of tokens, and reaches those that no list has any more.
    """

    __slots__ = ("is_valid", "name")

    def __init__(self, name: str = "") -> None:
        """`name`: the same on every replica for the same key and rules; empty where nothing refers to it."""
        self.is_valid, self.name = True, name

    def withdraw(self) -> None:
        """End every identity that rests on it."""
        self.is_valid = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProvenIdentity(Identity):
    """A caller by a token of an issuer, or by a client certificate.

    `names`: everything by which it can be denied: `ISSUER|SUBJECT` of a token, `uri:NAME` and `dns:NAME` of a
    certificate. `issuer`, `claims`: of a token, whose it is, and what it has of the claims that the issuer's rules ask
    for.
    """

    proof: Proof
    names: frozenset[str] = frozenset()
    issuer: str = ""
    claims: Mapping[str, JsonValue] | None = None
