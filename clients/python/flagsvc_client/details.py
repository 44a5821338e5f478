"""Evaluation contexts and evaluation details, in OpenFeature's terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, TypeVar

JsonValue = Any
"""null, bool, int, float, str, list or dict of these; integers stay int."""
T = TypeVar("T")
NOTHING: Mapping[str, JsonValue] = MappingProxyType({})
TARGETING_KEY = "targetingKey"


class Reason(StrEnum):
    """Why an evaluation has its value. UNKNOWN also stands for a reason added by a newer release."""

    STATIC = "STATIC"
    DEFAULT = "DEFAULT"
    TARGETING_MATCH = "TARGETING_MATCH"
    SPLIT = "SPLIT"
    CACHED = "CACHED"
    DISABLED = "DISABLED"
    STALE = "STALE"
    ERROR = "ERROR"
    UNKNOWN = "UNKNOWN"


class ErrorCode(StrEnum):
    """What went wrong. GENERAL also stands for a code added by a newer release."""

    FLAG_NOT_FOUND = "FLAG_NOT_FOUND"
    TYPE_MISMATCH = "TYPE_MISMATCH"
    PARSE_ERROR = "PARSE_ERROR"
    TARGETING_KEY_MISSING = "TARGETING_KEY_MISSING"
    INVALID_CONTEXT = "INVALID_CONTEXT"
    PROVIDER_NOT_READY = "PROVIDER_NOT_READY"
    GENERAL = "GENERAL"


class Source(StrEnum):
    """Where the definition came from. LOCAL: this process's own copy. NONE: there is none, the evaluation failed."""

    NONE = "NONE"
    LOCAL = "LOCAL"
    NEAR_CACHE = "NEAR_CACHE"
    CACHE = "CACHE"
    STORE = "STORE"
    SNAPSHOT = "SNAPSHOT"


@dataclass(frozen=True, slots=True)
class EvaluationContext:
    """For whom a flag is evaluated: `targeting_key` identifies the subject, such as a user's id."""

    targeting_key: str = ""
    attributes: Mapping[str, JsonValue] = field(default_factory=lambda: NOTHING)


Context = EvaluationContext | Mapping[str, JsonValue] | None
"""A context as callers may pass it: an EvaluationContext, a mapping with `targetingKey` in it, or None."""


class EvaluationDetails(NamedTuple, Generic[T]):
    """What a flag evaluated to. `value` is the caller's default if the flag has no value or could not be evaluated.

    `variant` None: the value is the caller's default. `error_code` None: no error. `status`: the flag's, such as
    "BETA"; empty if unknown. `enabled`: the status is ENABLED and the flag's value is true. `revision` 0: unknown.
    `age_ms`: time since the definition was last verified against the store.
    """

    flag_key: str
    value: T
    variant: str | None = None
    reason: Reason = Reason.UNKNOWN
    error_code: ErrorCode | None = None
    error_message: str = ""
    flag_metadata: Mapping[str, JsonValue] = NOTHING
    revision: int = 0
    source: Source = Source.NONE
    age_ms: int = 0
    status: str = ""
    enabled: bool = False
