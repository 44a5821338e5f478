"""Turns command-line arguments into evaluation contexts and changes of flags."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from flagsvc.api.common.values import to_value
from flagsvc.cli.input_files import read_bytes
from flagsvc.cli.usage import UsageError, meant
from flagsvc.core import prerequisites, rollouts
from flagsvc.core.documents import WORDS, from_document, times_from_json, to_document
from flagsvc.core.json_values import NotJson, strict_loads
from flagsvc.core.model import STORED_NAMES, WRITABLE, Flag
from flagsvc.generated.flagsvc.v1 import types_pb2 as types

FIELDS = {STORED_NAMES[field]: field for field in WRITABLE} | {field: field for field in WRITABLE}
_KNOWN = f"known fields: {', '.join(STORED_NAMES[each] for each in WRITABLE)}"
_TEXT_FIELDS = {"name", "description", "category", "status", "icon", "badge", "default_variant", "owner"}
_TEXT_FIELDS |= {"expires_at", "targeting", "exposure"}
_WITH_PARTS = ("variants", "metadata", "evaluators", "config")
_EXPECTED: Mapping[str, str] = {
    "status": "ENABLED, DISABLED, BETA or DEPRECATED",
    "exposure": "INTERNAL or PUBLIC",
    "sortOrder": "an integer of 32 bits",
    "expiresAt": "a time such as 2030-01-31T12:00:00Z, or empty",
    "variants": 'an object such as {"on": true, "off": false}',
    "metadata": "an object",
    "evaluators": "an object of rules by name",
    "rollout": "an object with from, to and points; the command rollout makes one",
    "prerequisites": "a list of objects with flagKey and variants; the option --requires makes one",
}
_STATUS_WORDS = {"on": "ENABLED", "true": "ENABLED", "enable": "ENABLED", "off": "DISABLED", "false": "DISABLED"}
_STATUS_WORDS |= {"disable": "DISABLED"}


class Edit(NamedTuple):
    """A change of a field, or of a part of one such as `variants.a`. `value` None: it is cleared or removed."""

    field: str
    part: str
    value: Any


def read_context(args: argparse.Namespace) -> types.EvaluationContext:
    """Read --context, --attribute and --targeting-key. Raises UsageError."""
    attributes = _parse_json(args.context, "--context") if args.context else {}
    if not isinstance(attributes, dict):
        raise UsageError("--context must be a JSON object")
    for pair in args.attribute:
        name, value = _split_pair(pair, "NAME=TEXT or NAME:=JSON")
        is_json = name.endswith(":") and len(name) > 1
        attributes[name[:-1] if is_json else name] = _parse_json(value, name[:-1]) if is_json else value
    key = args.targeting_key or attributes.pop("targetingKey", "")
    if not isinstance(key, str):
        raise UsageError(f"targetingKey in --context is {type(key).__name__}; it must be a text")
    return types.EvaluationContext(
        targeting_key=key, attributes={name: to_value(value) for name, value in attributes.items()}
    )


def read_edits(pairs: Sequence[str]) -> list[Edit]:
    """Read FIELD=VALUE, FIELD=@FILE and FIELD.PART=VALUE. Raises UsageError and BadFile."""
    return [_edit(*_split_pair(pair, "FIELD=VALUE")) for pair in pairs]


def text_or_file(given: str) -> str:
    """Return a text, or for @FILE the file's content. Raises BadFile."""
    return read_bytes(given[1:]).decode("utf-8-sig").strip() if given.startswith("@") else given


def required(given: Sequence[str]) -> list[Edit]:
    """Read --requires PARENT=VARIANT[,VARIANT...], all of them; a single empty one clears the field.

    Raises UsageError.
    """
    if not given:
        return []
    if list(given) == [""]:
        return [Edit("prerequisites", "", None)]
    pairs = [_split_pair(each, "PARENT=VARIANT, or PARENT=VARIANT,VARIANT") for each in given]
    value = [{"flagKey": key, "variants": [each for each in names.split(",") if each]} for key, names in pairs]
    if found := prerequisites.violations(value):
        raise UsageError("; ".join(map(str, found)))
    return [Edit("prerequisites", "", value)]


def edited(flag: Flag, edits: Sequence[Edit]) -> Flag:
    """Return a flag with changes. Raises UsageError."""
    document = to_document(flag)
    for field, part, value in edits:
        stored = STORED_NAMES[field]
        if not part:
            document[stored] = value
            continue
        whole = document.get(stored) or {}
        if not isinstance(whole, dict):
            raise UsageError(f"{stored} is not an object, so it has no {stored}.{part}")
        parts = {**whole, part: value}
        document[stored] = {name: each for name, each in parts.items() if name != part or value is not None}
    return _flag_of(document, flag)


def rewritten(flag: Flag, document: Mapping[str, Any]) -> Flag:
    """Return a flag with its writable fields as a document has them, by their stored names. Raises UsageError."""
    unknown = [name for name in document if name not in FIELDS or name not in STORED_NAMES.values()]
    if unknown:
        raise UsageError(f"unknown field {unknown[0]!r}{meant(unknown[0], FIELDS)}; {_KNOWN}")
    fixed = {name: value for name, value in to_document(flag).items() if name not in FIELDS}
    return _flag_of({**fixed, **times_from_json(dict(document))}, flag)


def _flag_of(document: Mapping[str, Any], flag: Flag) -> Flag:
    after = from_document({name: value for name, value in document.items() if value is not None})
    if after.problem:
        wrong = after.problem.partition(": ")[2].split(", ")
        raise UsageError("; ".join(_wrong(name, document[name]) for name in wrong))
    if after.rollout is not None and (found := rollouts.violations(after.rollout, None)):
        raise UsageError("; ".join(map(str, found)))
    if after.prerequisites is not None and (wrong_links := prerequisites.violations(after.prerequisites)):
        raise UsageError("; ".join(map(str, wrong_links)))
    return replace(after, revision=flag.revision)


def _edit(name: str, text: str) -> Edit:
    whole, dot, part = name.partition(".")
    field = FIELDS.get(whole)
    if field is None:
        raise UsageError(f"unknown field {name!r}{meant(whole, FIELDS)}; {_KNOWN}")
    if dot and (field not in _WITH_PARTS or not part):
        raise UsageError(f"{name!r} names a part of {whole}; only {', '.join(_WITH_PARTS)} have parts, by name")
    text = text_or_file(text)
    if text == "":
        return Edit(field, part, None)
    if field in _TEXT_FIELDS:
        return Edit(field, part, _checked(field, text))
    return Edit(field, part, _parse_json_or_word(text, name) if part else _parse_json(text, name))


def _checked(field: str, text: str) -> Any:
    if field in WORDS and text not in WORDS[field].__members__:
        raise UsageError(_wrong(field, text))
    if field == "expires_at":
        moment = times_from_json({"expiresAt": text})["expiresAt"]
        if moment is None:
            raise UsageError(_wrong("expiresAt", text))
        return moment
    return text


def _wrong(name: str, found: Any) -> str:
    near = ""
    if name in WORDS:
        word = _STATUS_WORDS.get(str(found).lower()) if name == "status" else None
        near = f"; did you mean {word}?" if word else meant(str(found), WORDS[name].__members__)
    return f"{name} is {str(found)[:60]!r}; it must be {_EXPECTED.get(name, 'of another type')}{near}"


def _split_pair(text: str, what: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"{text!r} must be {what}: a name, an equals sign and a value")
    return name, value


def _parse_json(text: str, what: str) -> Any:
    try:
        return strict_loads(text)
    except NotJson as error:
        at = f" at character {error.column}" if error.column else ""
        raise UsageError(f"{what} is not valid JSON{at}: {error}: {text[:60]!r}") from None


def _parse_json_or_word(text: str, what: str) -> Any:
    """Return JSON; a plain word, which no JSON value begins like, is a text."""
    return text if text[0].isalpha() and text not in ("true", "false", "null") else _parse_json(text, what)
