"""The flags and the evaluations for every provider, whatever its language and mode."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from flagsvc.api.common.values import to_value
from flagsvc.generated.flagsvc.v1 import types_pb2 as types

ENABLED, DISABLED = types.FLAG_STATUS_ENABLED, types.FLAG_STATUS_DISABLED
BETA, DEPRECATED = types.FLAG_STATUS_BETA, types.FLAG_STATUS_DEPRECATED

SWITCH = {"on": True, "off": False}
COLORS = {"red": "#f00", "blue": "#00f"}
THEME = {"dark": True, "size": 12, "fonts": ["serif", "mono"], "border": {"width": 1.5}}
REGION = "eu-central"
"""The value of `region` that the server of these flags adds to every context."""


def flag(
    key: str,
    variants: dict[str, Any] | None = None,
    default: str = "",
    *,
    status: int = ENABLED,
    targeting: Any = None,
    evaluators: dict[str, Any] | None = None,
    metadata: dict[str, Any] | None = None,
    flag_set: str = "",
) -> types.Flag:
    """Return a flag to create."""
    return types.Flag(
        key=key,
        flag_set=flag_set,
        status=status,
        variants={name: to_value(value) for name, value in (variants or {}).items()},
        default_variant=default,
        targeting=json.dumps(targeting) if targeting is not None else "",
        evaluators={name: json.dumps(rule) for name, rule in (evaluators or {}).items()},
        metadata={name: to_value(value) for name, value in (metadata or {}).items()},
    )


FLAGS = [
    flag("switch"),
    flag("boolean", SWITCH, "on", metadata={"team": "web", "rank": 3, "live": True}),
    flag("boolean-false", SWITCH, "off"),
    flag("string", COLORS, "blue"),
    flag("string-empty", {"none": "", "some": "x"}, "none"),
    flag("integer", {"few": 10, "many": 9_000_000}, "many"),
    flag("integer-zero", {"zero": 0, "one": 1}, "zero"),
    flag("integer-as-float", {"few": 10, "many": 1000}, "few"),
    flag("ten", {"ten": 10.0}, "ten"),
    flag("float", {"low": 0.25, "high": 0.75}, "high"),
    flag("object", {"plain": {"dark": False}, "rich": THEME}, "rich"),
    flag(
        "by-country",
        COLORS,
        "red",
        targeting={"if": [{"==": [{"var": "country"}, "CH"]}, "blue", None]},
    ),
    flag(
        "by-mail",
        SWITCH,
        "off",
        targeting={"if": [{"$ref": "staff"}, "on", "off"]},
        evaluators={"staff": {"ends_with": [{"var": "email"}, "@flagsvc.example"]}},
    ),
    flag("by-version", SWITCH, "off", targeting={"if": [{"sem_ver": [{"var": "version"}, ">=", "2.1.0"]}, "on", None]}),
    flag("by-key", COLORS, "red", targeting={"if": [{"==": [{"var": "targetingKey"}, "user-7"]}, "blue", "red"]}),
    flag("by-region", COLORS, "red", targeting={"if": [{"==": [{"var": "region"}, REGION]}, "blue", "red"]}),
    flag("split", COLORS, "red", targeting={"fractional": [["red", 50], ["blue", 50]]}),
    flag("chosen", COLORS, "red", targeting={"var": "choice"}),
    flag("no-default", COLORS),
    flag("no-default-targeted", COLORS, targeting={"if": [{"==": [{"var": "country"}, "CH"]}, "blue", None]}),
    flag("disabled", SWITCH, "on", status=DISABLED),
    flag("disabled-string", COLORS, "red", status=DISABLED),
    flag("deprecated", COLORS, "red", status=DEPRECATED),
    flag("beta", COLORS, "red", status=BETA, targeting={"if": [{"==": [{"var": "country"}, "CH"]}, "blue", None]}),
    flag("mismatch-string", COLORS, "red"),
    flag("mismatch-boolean", SWITCH, "on"),
    flag("mismatch-number", {"few": 10}, "few"),
    flag("mismatch-object", {"rich": THEME}, "rich"),
    flag("mismatch-fraction", {"low": 0.25}, "low"),
    flag("boolean", SWITCH, "off", flag_set="tenant-a"),
    flag("only-a", COLORS, "blue", flag_set="tenant-a", metadata={"tier": "gold"}),
]


@dataclass(frozen=True, slots=True)
class Case:
    """One evaluation and its answer."""

    name: str
    kind: str
    """boolean, string, integer, float or object."""
    key: str
    default: Any
    value: Any
    reason: str
    variant: str | None = None
    error: str | None = None
    targeting_key: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    in_process_reason: str = ""
    """The reason of an evaluation in the client, where it differs."""

    def __str__(self) -> str:
        return self.name.replace(" ", "-")

    def reason_in(self, *, process: bool) -> str:
        return self.in_process_reason if process and self.in_process_reason else self.reason


KINDS = {bool: "boolean", str: "string", int: "integer", float: "float", dict: "object"}


def _static(name: str, key: str, default: Any, value: Any, variant: str) -> Case:
    return Case(name, KINDS[type(value)], key, default, value, "STATIC", variant)


def _matched(name: str, key: str, value: Any, variant: str, key_of: str | None = None, **attributes: Any) -> Case:
    default = "mine" if isinstance(value, str) else not value
    return Case(
        name, KINDS[type(value)], key, default, value, "TARGETING_MATCH", variant, None, key_of, attributes=attributes
    )


def _default(name: str, key: str, value: Any, variant: str | None, **attributes: Any) -> Case:
    """Targeting returned nothing: the default variant, or the caller's default where there is none."""
    default = value if variant is None else "mine" if isinstance(value, str) else not value
    return Case(name, KINDS[type(value)], key, default, value, "DEFAULT", variant, attributes=attributes)


def _disabled(name: str, key: str, default: Any, in_process_reason: str = "") -> Case:
    return Case(name, KINDS[type(default)], key, default, default, "DISABLED", in_process_reason=in_process_reason)


def _error(name: str, key: str, default: Any, code: str, **attributes: Any) -> Case:
    return Case(name, KINDS[type(default)], key, default, default, "ERROR", None, code, attributes=attributes)


CASES = [
    _static("a plain switch", "switch", False, True, "on"),
    _static("a boolean", "boolean", False, True, "on"),
    _static("a boolean that is false", "boolean-false", True, False, "off"),
    _static("a string", "string", "-", "#00f", "blue"),
    _static("an empty string", "string-empty", "-", "", "none"),
    _static("an integer", "integer", 1, 9_000_000, "many"),
    _static("zero", "integer-zero", 5, 0, "zero"),
    _static("an integer asked for as a float", "integer-as-float", 1.5, 10.0, "few"),
    _static("a float", "float", 0.5, 0.75, "high"),
    _static("an object", "object", {}, THEME, "rich"),
    _matched("a rule that matches", "by-country", "#00f", "blue", country="CH"),
    _default("a rule that does not match", "by-country", "#f00", "red", country="FR"),
    _default("a rule without context", "by-country", "#f00", "red"),
    _matched("a shared rule that matches", "by-mail", True, "on", email="kim@flagsvc.example"),
    _matched("a shared rule that does not match", "by-mail", False, "off", email="kim@other.example"),
    _matched("a version", "by-version", True, "on", version="2.3.0"),
    _default("a version too old", "by-version", False, "off", version="2.0.9"),
    _matched("the targeting key", "by-key", "#00f", "blue", "user-7"),
    _matched("another targeting key", "by-key", "#f00", "red", "user-8"),
    _matched("a value that the server adds", "by-region", "#00f", "blue"),
    _default("no default variant", "no-default", "mine", None),
    _matched("no default variant, a match", "no-default-targeted", "#00f", "blue", country="CH"),
    _default("no default variant, no match", "no-default-targeted", "mine", None),
    _disabled("a disabled flag", "disabled", False),
    _disabled("a disabled flag, default true", "disabled", True),
    _disabled("a disabled string", "disabled-string", "mine"),
    _disabled("a deprecated flag", "deprecated", "mine"),
    _matched("a beta flag for its group", "beta", "#00f", "blue", country="CH"),
    _disabled("a beta flag for the others", "beta", "mine", in_process_reason="DEFAULT"),
    _error("an unknown flag", "nowhere", "mine", "FLAG_NOT_FOUND"),
    _error("a flag of another set", "only-a", "mine", "FLAG_NOT_FOUND"),
    _error("a string asked for as a boolean", "mismatch-string", True, "TYPE_MISMATCH"),
    _error("a boolean asked for as a string", "mismatch-boolean", "mine", "TYPE_MISMATCH"),
    _error("a number asked for as an object", "mismatch-number", {"a": 1}, "TYPE_MISMATCH"),
    _error("an object asked for as a float", "mismatch-object", 1.5, "TYPE_MISMATCH"),
    _error("a fraction asked for as an integer", "mismatch-fraction", 3, "TYPE_MISMATCH"),
    _error("a rule that names no variant", "chosen", "mine", "GENERAL", choice="green"),
]
"""Each answer is the same over RPC and in process, except for `in_process_reason`."""

SELECTED_CASES = [
    _static("the same key in the selected set", "boolean", True, False, "off"),
    _static("a key of the selected set", "only-a", "-", "#00f", "blue"),
    _error("a key of the default set", "string", "mine", "FLAG_NOT_FOUND"),
]
"""With the selector `flagSetId=tenant-a`."""

NODE_CASES = [case for case in CASES if case.key != "mismatch-fraction"]
"""JavaScript has one kind of number: an integer flag is requested as a number."""
