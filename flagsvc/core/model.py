"""Flags, their identity and their history, as frozen data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

JsonValue = Any
"""A JSON value: None, bool, int, float, str, or a list or dict of these. Integers stay int."""

Attributes = Mapping[str, JsonValue]
"""An evaluation context: its fields, including `targetingKey`. It is only read, mostly by `get`, so it may be lazy."""

DEFAULT_SET = "default"
BUCKETINGS = (2, 3)
"""Versions of how a split chooses a variant: 2 is that of flagd's daemon, 3 hashes values of all types."""
DEFAULT_BUCKETING = 2
"""The version of a flag set, and of a definition, that names none."""
MAX_REVISION = 2**53
"""The largest revision: every program, JavaScript included, can still count to it exactly."""
SWITCH_VARIANTS: Mapping[str, JsonValue] = {"on": True, "off": False}
NO_VARIANTS: Mapping[str, JsonValue] = {"": None}
"""The variants of a flag that has none, in a flagd file. A stored flag with no variants at all is a plain switch."""
ANONYMOUS = "anonymous"


class FlagId(NamedTuple):
    """A flag's identity. A key alone is never looked up, so that flag sets stay apart."""

    flag_set: str
    key: str


class Status(StrEnum):
    """The existing system's four states. Only ENABLED is on for everybody."""

    ENABLED = "ENABLED"
    DISABLED = "DISABLED"
    BETA = "BETA"
    DEPRECATED = "DEPRECATED"


class Exposure(StrEnum):
    """Who may see a flag over OFREP."""

    INTERNAL = "INTERNAL"
    """Callers who may evaluate."""
    PUBLIC = "PUBLIC"
    """Callers with the role public, too."""


class Unknown(NamedTuple):
    """What a stored flag needs that this release lacks, and the fields that it does not know: they are passed on."""

    needs: tuple[str, ...]
    fields: Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A flag's definition. Times are aware UTC datetimes. Revision 0 means that flagsvc has not written the flag."""

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
    """The targeting rule as JSON text, because BSON restricts names such as `$ref` and text keeps numbers and order."""
    evaluators: Mapping[str, str] = field(default_factory=dict)
    """Rules that the targeting refers to by `$ref`, as JSON text by name. A definition refers to nothing outside it."""
    metadata: Mapping[str, JsonValue] = field(default_factory=dict)
    revision: int = 0
    bucketing: int = DEFAULT_BUCKETING
    """The version that the rule's splits use: the flag set's, as of the definition's revision. Stores write it."""
    owner: str | None = None
    expires_at: datetime | None = None
    exposure: Exposure = Exposure.INTERNAL
    rollout: JsonValue = None
    """A share of callers that changes with time, as JSON (`core.rollouts`); it decides where targeting gives null."""
    prerequisites: JsonValue = None
    """Variants that other flags of the set must have, as JSON (`core.prerequisites`); None: none."""
    problem: str = ""
    """Why the stored document cannot be evaluated (PARSE_ERROR). Never stored itself."""
    unknown: Unknown | None = None
    """What a newer release stored, where this one cannot evaluate the flag without it (GENERAL)."""

    @property
    def id(self) -> FlagId:
        """The flag's identity: flag set and key."""
        return FlagId(self.flag_set, self.key)

    @property
    def effective_variants(self) -> Mapping[str, JsonValue]:
        """Values by variant name. A flag without variants is a plain switch: {on: true, off: false}."""
        return self.variants or SWITCH_VARIANTS

    @property
    def effective_default(self) -> str | None:
        """The variant where targeting does not match, `on` for a plain switch. None if there is no default variant."""
        return self.default_variant or (None if self.variants else "on")

    @property
    def is_public(self) -> bool:
        """Whether callers with the role public may see it."""
        return self.exposure is Exposure.PUBLIC

    @property
    def etag(self) -> str:
        """The revision as an entity tag, quoted (RFC 7232)."""
        return f'"{self.revision}"'


def list_order(flag: Flag) -> tuple[int, str]:
    """Return the sort key of flag lists: sort order, then key."""
    return flag.sort_order, flag.key


def _camel_case(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


_NOT_STORED = frozenset({"problem", "unknown"})
STORED_NAMES: Mapping[str, str] = {
    each.name: _camel_case(each.name) for each in fields(Flag) if each.name not in _NOT_STORED
}
"""Field of `Flag` -> its name in a MongoDB document. The existing system's collection fixes these names."""

WRITABLE = (
    *("name", "description", "category", "status", "config", "icon", "badge", "sort_order"),
    *(
        "variants",
        "default_variant",
        "targeting",
        "evaluators",
        "metadata",
        "owner",
        "expires_at",
        "exposure",
        "rollout",
        "prerequisites",
    ),
)
"""Fields that an update may change, in document order."""


class Action(StrEnum):
    """The kinds of changes in a flag's history. The first three are the existing system's."""

    ENABLED = "ENABLED"
    DISABLED = "DISABLED"
    UPDATED = "UPDATED"
    CREATED = "CREATED"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change to be stored: the flag before and after it (None: absent), and its history entry.

    `previous` and `new` hold the changed fields under their stored names; None where there was no flag.
    """

    before: Flag | None
    after: Flag | None
    action: Action
    previous: Mapping[str, JsonValue] | None
    new: Mapping[str, JsonValue] | None
    actor: str = ANONYMOUS
    reason: str = ""
    caller: str = ""
    via: str = ""
    """What made the change in the caller's name, such as `schedule/ID`; empty for the caller itself."""
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """One stored change. `action` is free text because other programs write history entries too."""

    key: str
    action: str
    previous: JsonValue
    new: JsonValue
    actor: str
    reason: str
    created_at: datetime
    revision: int
    caller: str = ""
    via: str = ""
