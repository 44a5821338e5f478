"""A flag, its identity and its history, as frozen data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

JsonValue = Any
"""null, bool, int, float, str, list or dict of these; integers stay int."""

Attributes = Mapping[str, JsonValue]
"""An evaluation context: its fields, `targetingKey` among them. Only read, and mostly by `get`, so it may be lazy."""

DEFAULT_SET = "default"
SWITCH_VARIANTS: Mapping[str, JsonValue] = {"on": True, "off": False}
ANONYMOUS = "anonymous"


class FlagId(NamedTuple):
    """Identity of a flag: nothing is ever looked up by key alone."""

    flag_set: str
    key: str


class Status(StrEnum):
    """The existing system's four states; only ENABLED is on for everybody."""

    ENABLED = "ENABLED"
    DISABLED = "DISABLED"
    BETA = "BETA"
    DEPRECATED = "DEPRECATED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A definition. Times are aware UTC datetimes; `revision` 0 means that flagsvc never wrote it."""

    key: str
    flag_set: str = DEFAULT_SET
    name: str = ""
    description: str | None = None
    category: str = "addon"
    status: Status = Status.DISABLED
    config: JsonValue = None
    icon: str | None = None
    badge: str | None = None
    sort_order: int = 0
    created_at: datetime | None = None
    updated_at: datetime | None = None
    enabled_at: datetime | None = None
    disabled_at: datetime | None = None
    variants: Mapping[str, JsonValue] = field(default_factory=dict)
    default_variant: str | None = None
    targeting: str | None = None
    """The rule as JSON text: BSON has no room for names such as `$ref`, and texts keep numbers and order."""
    evaluators: Mapping[str, str] = field(default_factory=dict)
    """Rules that the targeting refers to, as JSON texts by name: a definition is whole in itself."""
    metadata: Mapping[str, JsonValue] = field(default_factory=dict)
    revision: int = 0
    owner: str | None = None
    expires_at: datetime | None = None
    problem: str = ""
    """Why a stored document cannot be evaluated (PARSE_ERROR); never written."""

    @property
    def id(self) -> FlagId:
        """(flag set, key)."""
        return FlagId(self.flag_set, self.key)

    @property
    def effective_variants(self) -> Mapping[str, JsonValue]:
        """What it can evaluate to, by name; without variants it is a plain switch."""
        return self.variants or SWITCH_VARIANTS

    @property
    def effective_default(self) -> str | None:
        """The variant for whom targeting does not match: of a plain switch `on`; None where there is none."""
        return self.default_variant or (None if self.variants else "on")

    @property
    def etag(self) -> str:
        """The revision as an entity tag, quoted (RFC 7232)."""
        return f'"{self.revision}"'


def list_order(flag: Flag) -> tuple[int, str]:
    """Sort key of lists: by sort order, then key."""
    return flag.sort_order, flag.key


STORED_NAMES: Mapping[str, str] = {
    "key": "key",
    "flag_set": "flagSet",
    "name": "name",
    "description": "description",
    "category": "category",
    "status": "status",
    "config": "config",
    "icon": "icon",
    "badge": "badge",
    "sort_order": "sortOrder",
    "created_at": "createdAt",
    "updated_at": "updatedAt",
    "enabled_at": "enabledAt",
    "disabled_at": "disabledAt",
    "variants": "variants",
    "default_variant": "defaultVariant",
    "targeting": "targeting",
    "evaluators": "evaluators",
    "metadata": "metadata",
    "revision": "revision",
    "owner": "owner",
    "expires_at": "expiresAt",
}
"""Field of `Flag` -> its name in a document, fixed by the existing system's collection."""

WRITABLE = (
    "name",
    "description",
    "category",
    "status",
    "config",
    "icon",
    "badge",
    "sort_order",
    "variants",
    "default_variant",
    "targeting",
    "evaluators",
    "metadata",
    "owner",
    "expires_at",
)
"""Fields that an update may name, in document order."""


class Action(StrEnum):
    """What a history entry says was done; the first three are the existing system's."""

    ENABLED = "ENABLED"
    DISABLED = "DISABLED"
    UPDATED = "UPDATED"
    CREATED = "CREATED"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A decided write: what the flag was, what it becomes (None: deleted), and what the history says of it.

    `previous` and `new` hold the changed fields under their stored names; None where there was nothing.
    """

    before: Flag | None
    after: Flag | None
    action: Action
    previous: Mapping[str, JsonValue] | None
    new: Mapping[str, JsonValue] | None
    actor: str = ANONYMOUS
    reason: str = ""
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """One stored change; `action` is free text because other writers exist."""

    key: str
    action: str
    previous: JsonValue
    new: JsonValue
    actor: str
    reason: str
    created_at: datetime
    revision: int
