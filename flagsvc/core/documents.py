"""Flags as documents with the existing system's field names, and as JSON text for caches, SQLite and snapshots.

Reading is lenient: a field of the wrong type is recorded in the flag's `problem` and never raises, so that one
malformed document does not affect other flags.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from . import json_values
from .model import BUCKETINGS, DEFAULT_BUCKETING, DEFAULT_SET, STORED_NAMES, Exposure, Flag, JsonValue, Status
from .needs import NEEDS, needs_of, unknown_in

_TIMES = frozenset({"createdAt", "updatedAt", "enabledAt", "disabledAt", "expiresAt"})
_TEXTS = frozenset({"key", "flagSet", "name", "description", "category", "icon", "badge", "owner", "defaultVariant"})
_OBJECTS = frozenset({"variants", "metadata", "evaluators", "rollout"})
_LISTS = frozenset({"prerequisites"})
_LEFT_OUT_EMPTY = _OBJECTS | _LISTS
WORDS: Mapping[str, type[StrEnum]] = {"status": Status, "exposure": Exposure}
"""The words that a field can have, by its stored name."""
_DEFAULTS = {"flagSet": DEFAULT_SET, "bucketing": DEFAULT_BUCKETING, "exposure": Exposure.INTERNAL}
"""Values that a document leaves out, as documents of the existing system do."""


def to_document(flag: Flag) -> dict[str, Any]:
    """Return the fields that are set, except `revision`, under their stored names. Times stay datetimes."""
    document: dict[str, Any] = {}
    for field, name in STORED_NAMES.items():
        value = getattr(flag, field)
        if field == "revision" or value is None or (name in _LEFT_OUT_EMPTY and not value):
            continue
        if name in _DEFAULTS and value == _DEFAULTS[name]:
            continue
        document[name] = value.value if name in WORDS else value
    if needs := needs_of(flag):
        document[NEEDS] = needs
    return {**document, **flag.unknown.fields} if flag.unknown is not None else document


def from_document(document: Mapping[str, Any]) -> Flag:
    """Read a document whose values are JSON, with datetimes for times. Never raises: see `Flag.problem`."""
    values: dict[str, Any] = {"key": ""}
    problems: list[str] = []
    for field, name in STORED_NAMES.items():
        raw = document.get(name)
        if raw is None:
            continue
        value = _read(name, raw)
        if value is None:
            problems.append(name)
        else:
            values[field] = value
    if problems:
        values["problem"] = f"The stored definition is malformed: {', '.join(problems)}"
    if document.get(NEEDS) is not None:
        values["unknown"] = unknown_in(document)
    return Flag(**values)


def _read(name: str, raw: JsonValue) -> Any:
    """Return the field's value; None if it has the wrong type."""
    if name in _TIMES:
        return raw if isinstance(raw, datetime) else None
    if name in _TEXTS:
        return raw if isinstance(raw, str) and json_values.is_text(raw) else None
    if name in WORDS:
        return WORDS[name](raw) if isinstance(raw, str) and raw in WORDS[name].__members__ else None
    if name in ("sortOrder", "revision"):
        whole = isinstance(raw, int) or (isinstance(raw, float) and raw.is_integer())
        bits = 31 if name == "sortOrder" else 63
        return int(raw) if whole and not isinstance(raw, bool) and -(2**bits) <= raw < 2**bits else None
    if name == "bucketing":
        return int(raw) if isinstance(raw, int | float) and not isinstance(raw, bool) and raw in BUCKETINGS else None
    if name == "targeting":
        return _rule_text(raw)
    if name == "evaluators":
        return _evaluators(raw)
    if name in _OBJECTS:
        return raw if isinstance(raw, dict) and json_values.problem(raw) is None else None
    if name in _LISTS:
        return raw if isinstance(raw, list) and json_values.problem(raw) is None else None
    return raw if json_values.problem(raw) is None else None


def _evaluators(raw: JsonValue) -> dict[str, str] | None:
    if not isinstance(raw, dict):
        return None
    texts = {name: _rule_text(rule) for name, rule in raw.items()}
    return {n: text for n, text in texts.items() if text is not None} if None not in texts.values() else None


def _rule_text(raw: JsonValue) -> str | None:
    """Return a rule as text. Other programs may have stored it as an object, or as any other JSON but a text."""
    if isinstance(raw, str):
        return raw
    return json_values.compact(raw) if json_values.problem(raw) is None else None


def dumps(flag: Flag) -> str:
    """Return the flag as one line of JSON, including its `problem`. Times are ISO 8601 in UTC."""
    document = {NEEDS: []} | to_document(flag) | {"revision": flag.revision, "bucketing": flag.bucketing}
    if flag.problem:
        document["problem"] = flag.problem
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), default=_time_to_json)


def loads(text: str | bytes) -> Flag:
    """Read what `dumps` wrote. Raises ValueError, TypeError or AttributeError for other texts."""
    return from_json(json.loads(text))


def from_json(document: dict[str, Any]) -> Flag:
    """Read what `dumps` wrote, parsed. Raises as `loads` does."""
    flag = from_document(times_from_json(document))
    problem = document.get("problem")
    return replace(flag, problem=problem) if isinstance(problem, str) and problem else flag


def times_from_json(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document with its ISO 8601 times as aware datetimes."""
    times = {n: _time_from_json(v) for n, v in document.items() if n in _TIMES and isinstance(v, str)}
    return {**document, **times}


def json_safe(value: Any) -> JsonValue:
    """Return a document's value as JSON. Times, which history may contain, become ISO 8601 text."""
    if isinstance(value, dict):
        return {k: json_safe(v) for k, v in value.items()}
    if isinstance(value, list):
        return [json_safe(v) for v in value]
    return _time_to_json(value) if isinstance(value, datetime) else value


def _time_to_json(value: object) -> str:
    if not isinstance(value, datetime):
        raise TypeError(f"{type(value).__name__} is not JSON")
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _time_from_json(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
