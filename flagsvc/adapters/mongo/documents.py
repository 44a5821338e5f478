"""Flags, history and audit as BSON documents of the existing system's collections, and back. Knows no client."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Any

import bson
from bson import ObjectId, json_util
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.int64 import Int64

from flagsvc.core import json_values
from flagsvc.core.documents import from_document, json_safe, to_document
from flagsvc.core.model import DEFAULT_SET, STORED_NAMES, Action, Change, Flag, FlagId, HistoryEntry, JsonValue

# A date that Python cannot hold, or a text that is no UTF-8, spoils its own flag and not the reading of all others.
CODEC: CodecOptions[dict[str, Any]] = CodecOptions(
    tz_aware=True,
    tzinfo=UTC,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    unicode_decode_error_handler="replace",
)
_TIMES = frozenset(name for name in STORED_NAMES.values() if name.endswith("At"))
_NEVER_UNSET = frozenset({"createdAt", "updatedAt"})
_EXTENDED = json_util.RELAXED_JSON_OPTIONS
_MAX_REVISION = 2**62  # so that the counter can go on from it


def in_set(flag_set: str) -> dict[str, Any]:
    """Give the condition for a flag set; the existing system's documents name none and belong to the default set."""
    return {"flagSet": {"$in": [None, DEFAULT_SET]} if flag_set == DEFAULT_SET else flag_set}


def among(ids: Sequence[FlagId]) -> dict[str, Any]:
    """Give the condition for these flags."""
    keys: dict[str, list[str]] = {}
    for flag_id in ids:
        keys.setdefault(flag_id.flag_set, []).append(flag_id.key)
    return {"$or": [{"key": {"$in": of_set}} | in_set(flag_set) for flag_set, of_set in keys.items()]}


def deletions(flag_id: FlagId, after: int) -> dict[str, Any]:
    """Give the condition for history rows of a flag's deletions by flagsvc with a larger revision than `after`."""
    deleted = {"featureKey": flag_id.key, "action": Action.DELETED.value, "revision": {"$gt": after}}
    return deleted | in_set(flag_id.flag_set)


def numbered(flag_set: str) -> dict[str, Any]:
    """Give the condition for flags of a set that have a revision."""
    return {"revision": {"$type": ["int", "long", "double"], "$gt": 0, "$lte": _MAX_REVISION}} | in_set(flag_set)


def identifiable(raw: Mapping[str, Any]) -> bool:
    """Whether the document has an identity at all; one without could only be mistaken for another flag."""
    return isinstance(raw.get("key"), str) and isinstance(raw.get("flagSet"), str | None)


def identity(document_id: object) -> bytes:
    """Give a document's `_id`, of whatever type, as what can be looked up."""
    return bson.encode({"_id": document_id})


def revision_of(raw: Mapping[str, Any] | None) -> int:
    """Give the revision that a document has; 0 for none, and for one that is no such number."""
    revision: Any = (raw or {}).get("revision")
    whole = isinstance(revision, int) or (isinstance(revision, float) and revision.is_integer())
    return int(revision) if whole and not isinstance(revision, bool) and 0 < revision <= _MAX_REVISION else 0


def counters(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Read each set's counter."""
    return {row["_id"]: revision_of(row) for row in rows if isinstance(row["_id"], str)}


def to_flag(raw: Mapping[str, Any]) -> Flag:
    """Read a flag's document; whatever is wrong with it becomes the flag's `problem`.

    A revision that the counter could not go on from counts as none.
    """
    try:
        flag = from_document(_plain_document(raw))
        return flag if 0 <= flag.revision <= _MAX_REVISION else replace(flag, revision=0)
    except (TypeError, ValueError, OverflowError):
        problem = "The stored definition is malformed"
        return Flag(key=raw["key"], flag_set=raw.get("flagSet") or DEFAULT_SET, problem=problem)


def outcome(
    change: Change, raw: Mapping[str, Any] | None, flag: Flag | None, revision: int
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Give the document as the next read will find it (None: deleted) and the edit that makes it out of `raw`.

    The edit holds no field whose value did not change, so that BSON types, nulls and unknown fields survive.
    """
    if change.after is None:
        return None, {}
    if raw is None or flag is None:
        return _as_stored(_new_document(change.after, change.at, revision)), {}
    old, new = to_document(flag), to_document(change.after)
    fields = {n: _grafted(n, raw.get(n), v) for n, v in new.items() if n not in old or not json_values.same(old[n], v)}
    for name in change.new or {}:  # a malformed value reads as if it were the default: named is enough to replace it
        if name in new and name not in _TIMES and not json_values.same(plain(raw.get(name)), new[name]):
            fields[name] = graft(raw.get(name), new[name])
    fields["revision"] = revision
    gone = [name for name in old if name not in new and name not in _NEVER_UNSET]
    edit: dict[str, Any] = {"$set": fields} | ({"$unset": dict.fromkeys(gone, "")} if gone else {})
    return _as_stored({name: value for name, value in raw.items() if name not in gone} | fields), edit


def _new_document(flag: Flag, at: datetime, revision: int) -> dict[str, Any]:
    """Give the document of a flag that was not there; times that the existing system requires are never missing."""
    fields = {name: _grafted(name, None, value) for name, value in to_document(flag).items()}
    return {"_id": ObjectId(), "createdAt": at, "updatedAt": at} | fields | {"revision": revision}


def _as_stored(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Give the document as BSON holds it: with milliseconds only."""
    return bson.decode(bson.encode(raw), codec_options=CODEC)


def history_document(change: Change, flag: Flag, revision: int) -> dict[str, Any]:
    """Give the history row in the existing system's shape, with what flagsvc adds."""
    document = {
        "featureKey": flag.key,
        "action": change.action.value,
        "previousValue": change.previous,
        "newValue": change.new,
        "userId": _user_id(change.actor),
        "createdAt": change.at,
        "revision": revision,
    }
    if change.reason:
        document["reason"] = change.reason
    return document | _set_field(flag)


def audit_document(change: Change, flag: Flag, resource_id: object) -> dict[str, Any]:
    """Give the audit row; toggles and config changes have the existing system's actions and metadata."""
    previous, new = change.previous or {}, change.new or {}
    named = {"featureKey": flag.key, "featureName": flag.name}
    if change.action in (Action.ENABLED, Action.DISABLED):
        action = "TOGGLE_FEATURE"
        told = {"oldStatus": previous.get("status"), "newStatus": new.get("status"), "action": change.action.value}
    elif change.action is Action.UPDATED and set(previous) == {"config"}:
        action = "UPDATE_FEATURE_CONFIG"
        told = {"oldConfig": previous.get("config"), "newConfig": new.get("config")}
    else:
        verbs = {Action.CREATED: "CREATE", Action.DELETED: "DELETE"}
        action = f"{verbs.get(change.action, 'UPDATE')}_FEATURE"
        told = {"previousValue": change.previous, "newValue": change.new}
    return {
        "action": action,
        "resourceType": "FEATURE_FLAG",
        "resourceId": resource_id,
        "userId": _user_id(change.actor),
        "metadata": named | told | _set_field(flag),
        "timestamp": change.at,
    }


def history_entries(rows: list[dict[str, Any]]) -> list[HistoryEntry]:
    """Read rows that are newest first by time; those with a revision stand in its order among themselves.

    The clocks of several writers may disagree, their revisions never do. Rows of the old service have none.
    """
    entries = [_history_entry(row) for row in rows]
    ordered = iter(sorted((e for e in entries if e.revision), key=lambda e: e.revision, reverse=True))
    return [next(ordered) if e.revision else e for e in entries]


def _history_entry(row: Mapping[str, Any]) -> HistoryEntry:
    at, revision = row.get("createdAt"), row.get("revision")
    return HistoryEntry(
        key=row["featureKey"],
        action=str(row.get("action", "")),
        previous=_plain_history(row.get("previousValue")),
        new=_plain_history(row.get("newValue")),
        actor=str(row.get("userId") or ""),
        reason=str(row.get("reason") or ""),
        created_at=at if isinstance(at, datetime) else row["_id"].generation_time,
        revision=int(revision) if isinstance(revision, int) else 0,
    )


def _plain_history(value: Any) -> JsonValue:
    return json_safe(_plain_document(value)) if isinstance(value, dict) else plain(value)


def _user_id(actor: str) -> ObjectId | str:
    return ObjectId(actor) if ObjectId.is_valid(actor) else actor


def _set_field(flag: Flag) -> dict[str, str]:
    return {} if flag.flag_set == DEFAULT_SET else {"flagSet": flag.flag_set}


def _plain_document(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Give the document as plain JSON, its own times as datetimes."""
    return {n: v if n in _TIMES and isinstance(v, datetime) else plain(v) for n, v in raw.items()}


def plain(value: Any) -> JsonValue:
    """Give a BSON value as plain JSON; what JSON lacks becomes relaxed extended JSON, such as {"$date": ...}."""
    match value:
        case None | bool() | str():
            return value
        case int():
            return int(value)
        case float() if math.isfinite(value):
            return value
        case dict():
            return {name: plain(part) for name, part in value.items()}
        case list():
            return [plain(part) for part in value]
        case _:
            return json.loads(json_util.dumps(value, json_options=_EXTENDED))


def _grafted(name: str, stored: Any, wanted: Any) -> Any:
    return wanted if name in _TIMES else graft(stored, wanted)


def graft(stored: Any, wanted: JsonValue) -> Any:
    """Give the wanted JSON as BSON, keeping the stored value of every part that says the same."""
    if json_values.same(plain(stored), wanted):
        return stored
    match wanted:
        case dict():
            typed = _typed(wanted)
            if typed is not None:
                return typed
            old = stored if isinstance(stored, dict) else {}
            return {name: graft(old.get(name), part) for name, part in wanted.items()}
        case list():
            parts = stored[: len(wanted)] if isinstance(stored, list) else []
            return [graft(part, new) for part, new in zip_longest(parts, wanted)]
        case int() if isinstance(stored, Int64) and not isinstance(wanted, bool):
            return Int64(wanted)
        case _:
            return wanted


def _typed(wanted: dict[str, Any]) -> Any:
    """Give the BSON value that reads as exactly this object; None where it is just an object."""
    if not any(name.startswith("$") for name in wanted):
        return None
    try:
        value = json_util.object_hook(dict(wanted), _EXTENDED)
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, bson.errors.BSONError):
        return None
    return value if not isinstance(value, dict) and json_values.same(plain(value), wanted) else None
