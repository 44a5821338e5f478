"""What a flag evaluates to: unknown, disabled, static, then the type check (OpenFeature's reasons and error codes).

A definition is prepared once, when it is loaded; evaluating a prepared one is a few attribute reads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from flagsvc.core import json_values
from flagsvc.core.model import SWITCH_VARIANTS, Flag, JsonValue, Status


class Reason(StrEnum):
    """OpenFeature's reasons that the engine itself gives."""

    STATIC = "STATIC"
    DEFAULT = "DEFAULT"
    TARGETING_MATCH = "TARGETING_MATCH"
    DISABLED = "DISABLED"
    STALE = "STALE"
    ERROR = "ERROR"


class ErrorCode(StrEnum):
    """OpenFeature's error codes that an evaluation can have."""

    FLAG_NOT_FOUND = "FLAG_NOT_FOUND"
    TYPE_MISMATCH = "TYPE_MISMATCH"
    PARSE_ERROR = "PARSE_ERROR"
    PROVIDER_NOT_READY = "PROVIDER_NOT_READY"


class ValueType(StrEnum):
    """The type that a caller needs."""

    BOOLEAN = "boolean"
    STRING = "string"
    INTEGER = "integer"
    FLOAT = "float"
    OBJECT = "object"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an evaluation gave. `variant` None: no value, the caller's own default stands."""

    reason: Reason
    variant: str | None = None
    value: JsonValue = None
    error_code: ErrorCode | None = None
    message: str = ""


DISABLED = Outcome(Reason.DISABLED)
NOT_FOUND = Outcome(Reason.ERROR, error_code=ErrorCode.FLAG_NOT_FOUND, message="Flag not found in this flag set")
NOT_READY = Outcome(
    Reason.ERROR,
    error_code=ErrorCode.PROVIDER_NOT_READY,
    message="The flag's definition could not be read yet; try again",
)


def prepare(flag: Flag) -> Outcome:
    """Compute what the flag evaluates to for every context (there is no targeting yet)."""
    if flag.problem:
        return Outcome(Reason.ERROR, error_code=ErrorCode.PARSE_ERROR, message=flag.problem)
    if flag.status is not Status.ENABLED:
        return DISABLED
    if flag.targeting is not None:
        message = "The flag has targeting, which this version cannot evaluate"
        return Outcome(Reason.ERROR, error_code=ErrorCode.PARSE_ERROR, message=message)
    variants = flag.variants or SWITCH_VARIANTS
    variant = flag.default_variant or ("on" if not flag.variants else None)
    if variant is None:
        return Outcome(Reason.DEFAULT)
    if variant not in variants:
        message = "The default variant is not one of the flag's variants"
        return Outcome(Reason.ERROR, error_code=ErrorCode.PARSE_ERROR, message=message)
    return Outcome(Reason.STATIC, variant, variants[variant])


def check_type(outcome: Outcome, wanted: ValueType | None) -> Outcome:
    """Turn an outcome whose value is of another type into TYPE_MISMATCH; a whole number serves as a float."""
    if wanted is None or outcome.variant is None:
        return outcome
    kind = json_values.kind(outcome.value)
    if kind == wanted:
        return outcome
    if wanted is ValueType.FLOAT and kind == "integer":
        return replace(outcome, value=float(outcome.value))
    message = f"The flag's value is of type {kind}, not {wanted}"
    return Outcome(Reason.ERROR, error_code=ErrorCode.TYPE_MISMATCH, message=message)
