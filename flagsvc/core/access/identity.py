"""Who a caller is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from flagsvc.core.access.roles import Role
from flagsvc.core.access.scopes import EVERY_SET, Scope
from flagsvc.core.model import JsonValue


class Kind(StrEnum):
    """How a caller was recognized."""

    TOKEN = "token"  # noqa: S105  a word, no secret
    JWT = "jwt"
    CERTIFICATE = "certificate"
    ANONYMOUS = "anonymous"
    """By nothing: the listener gives a role to callers without a credential."""
    UNCHECKED = "unchecked"
    """By nothing: authentication is off."""


@dataclass(frozen=True, slots=True, eq=False)
class Identity:
    """A caller with its rights. Each change of a caller is another object, so decisions can be kept by object.

    `id`: unique among its kind, such as a token's id or a listener's name. `name`: for people.
    `expires_at`: seconds since 1970 after which its credential is refused. `key`: what the credential is looked up by.
    `context`: fields of the evaluation context that its credential proves.
    `rate`: how many evaluations a second it may make, where that is not the default; else 0.
    `context_headers`: headers of its calls set the fields of the evaluation context that are configured.
    `may_act_for_others`: it may name on whose behalf it makes a change, as an admin always may.
    """

    kind: Kind
    id: str
    name: str
    role: Role
    scope: Scope
    expires_at: float = math.inf
    key: bytes = b""
    context: Mapping[str, JsonValue] | None = None
    rate: float = 0.0
    may_act_for_others: bool = False
    context_headers: bool = False

    @property
    def acts_for_others(self) -> bool:
        """Whether it may make changes on behalf of whom it names."""
        return self.may_act_for_others or self.role is Role.ADMIN

    @property
    def sets_context_by_headers(self) -> bool:
        """Whether headers of its calls set fields of the evaluation context: of everybody without authentication."""
        return self.context_headers or self.kind is Kind.UNCHECKED

    @property
    def is_of_the_public(self) -> bool:
        """Whether it sees nothing but flags whose exposure is PUBLIC."""
        return self.role is Role.PUBLIC

    @property
    def is_checked(self) -> bool:
        """Whether authentication is on."""
        return self.kind is not Kind.UNCHECKED

    def __str__(self) -> str:
        """Return the kind and the id, as logs and errors name a caller: `token:8Vq2...`."""
        return f"{self.kind}:{self.id}"


UNCHECKED = Identity(Kind.UNCHECKED, "", "", Role.ADMIN, EVERY_SET)
"""Every caller while authentication is off."""
