"""Flags, history entries and audit logs as BSON documents of the existing system's collections. Uses no client."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Any

import bson
from bson import ObjectId, json_util
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument

from flagsvc.core import json_values
from flagsvc.core.bucketing import version_for
from flagsvc.core.documents import from_document, json_safe, to_document
from flagsvc.core.model import (
    BUCKETINGS,
    DEFAULT_BUCKETING,
    DEFAULT_SET,
    MAX_REVISION,
    STORED_NAMES,
    Action,
    Change,
    Flag,
    FlagId,
    HistoryEntry,
    JsonValue,
)
from flagsvc.core.segments import stamp

# A date out of Python's range, or a string that is not UTF-8, must not break the reading of other flags.
CODEC: CodecOptions[dict[str, Any]] = CodecOptions(
    tz_aware=True,
    tzinfo=UTC,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    unicode_decode_error_handler="replace",
)
RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)
_TIMES = frozenset(name for name in STORED_NAMES.values() if name.endswith("At"))
_NEVER_UNSET = frozenset({"createdAt", "updatedAt"})
_EXTENDED = json_util.RELAXED_JSON_OPTIONS
_MAX_STORED = MAX_REVISION // 2
"""The largest revision that a flag's document may bring with it: it leaves the counter room to go on from there."""


def in_set(flag_set: str) -> dict[str, Any]:
    """Return the query for a flag set. The existing system's documents lack `flagSet`: they are in the default one."""
    return {"flagSet": {"$in": [None, DEFAULT_SET]} if flag_set == DEFAULT_SET else flag_set}


def with_ids(ids: Sequence[FlagId]) -> dict[str, Any]:
    """Return the query for these flags."""
    keys: dict[str, list[str]] = {}
    for flag_id in ids:
        keys.setdefault(flag_id.flag_set, []).append(flag_id.key)
    return {"$or": [{"key": {"$in": of_set}} | in_set(flag_set) for flag_set, of_set in keys.items()]}


def deletions(flag_id: FlagId, after: int) -> dict[str, Any]:
    """Return the query for history entries of a flag's deletions by flagsvc with a revision greater than `after`."""
    deleted = {"featureKey": flag_id.key, "action": Action.DELETED.value, "revision": {"$gt": after}}
    return deleted | in_set(flag_id.flag_set)


def with_revision(flag_set: str) -> dict[str, Any]:
    """Return the query for a set's flags that have a valid revision."""
    return {"revision": {"$type": ["int", "long", "double"], "$gt": 0, "$lte": _MAX_STORED}} | in_set(flag_set)


def with_bucketing(flag_set: str) -> dict[str, Any]:
    """Return the query for a set's flags that have another bucketing than the default one."""
    return {"bucketing": {"$in": [each for each in BUCKETINGS if each != DEFAULT_BUCKETING]}} | in_set(flag_set)


def identifiable(raw: Mapping[str, Any]) -> bool:
    """Whether the document has a valid key and flag set. Without them it could be mistaken for another flag."""
    return isinstance(raw.get("key"), str) and isinstance(raw.get("flagSet"), str | None)


def identity(document_id: object) -> bytes:
    """Return a document's `_id`, of any BSON type, as a hashable value."""
    return bson.encode({"_id": document_id})


def revision_of(raw: Mapping[str, Any] | None) -> int:
    """Return a document's revision; 0 if it has none or an invalid one."""
    return _revision(raw, _MAX_STORED)


def counter_of(row: Mapping[str, Any] | None) -> int:
    """Return a counter's value; 0 if there is none or it is invalid."""
    return _revision(row, MAX_REVISION - 1)


def bucketing_of(row: Mapping[str, Any] | None) -> int:
    """Return the bucketing of a set's counter or of a flag; the default one if there is none or it is invalid."""
    version: Any = (row or {}).get("bucketing")
    return int(version) if isinstance(version, int | float) and version in BUCKETINGS else DEFAULT_BUCKETING


def numbered(
    raw: Mapping[str, Any], revision: int, set_bucketing: int, segments: Mapping[str, str] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return another program's document with a revision and what its set gives it, and the MongoDB update for it.

    `segments`: the rules of those that it refers to; None: its evaluators stay as they are.
    """
    flag = to_flag(raw)
    fields: dict[str, Any] = {"revision": revision}
    if segments is not None and (linked := stamp(flag, segments)) is not flag:
        flag, fields["evaluators"] = linked, dict(linked.evaluators)
    version = version_for(flag, set_bucketing)
    fields |= {} if version == DEFAULT_BUCKETING else {"bucketing": version}
    removed = {"bucketing": ""} if version == DEFAULT_BUCKETING and "bucketing" in raw else {}
    kept = {name: value for name, value in raw.items() if name not in removed}
    return kept | fields, {"$set": fields} | ({"$unset": removed} if removed else {})


def next_counter(stored: int) -> dict[str, Any]:
    """Return MongoDB's expression for the next counter: above itself, where it is valid, and above `stored`."""
    valid = {"$and": [{"$isNumber": "$revision"}, {"$lt": ["$revision", MAX_REVISION]}]}
    return {"$cond": [valid, {"$add": [{"$max": ["$revision", stored]}, 1]}, stored + 1]}


def next_moment() -> dict[str, Any]:
    """Return MongoDB's expression for a counter's next moment: MongoDB's clock, and never before the last moment."""
    return {"$cond": [{"$eq": [{"$type": "$at"}, "date"]}, {"$max": ["$at", "$$NOW"]}, "$$NOW"]}


def _revision(raw: Mapping[str, Any] | None, most: int) -> int:
    revision: Any = (raw or {}).get("revision")
    whole = isinstance(revision, int) or (isinstance(revision, float) and revision.is_integer())
    return int(revision) if whole and not isinstance(revision, bool) and 0 < revision <= most else 0


def counters(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return the revision counter of each flag set."""
    return {row["_id"]: counter_of(row) for row in rows if isinstance(row["_id"], str)}


def to_flag(raw: Mapping[str, Any]) -> Flag:
    """Read a flag's document. Never raises: see `Flag.problem`. A revision that is too large is read as 0."""
    try:
        flag = from_document(_plain_document(raw))
        return flag if 0 <= flag.revision <= _MAX_STORED else replace(flag, revision=0)
    except (TypeError, ValueError, OverflowError):
        problem = "The stored definition is malformed"
        return Flag(key=raw["key"], flag_set=raw.get("flagSet") or DEFAULT_SET, problem=problem)


def updated(
    change: Change, raw: Mapping[str, Any] | None, flag: Flag | None, revision: int
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Return the document after the change (None: deleted), and the MongoDB update that makes it from `raw`.

    The update has only fields whose values change, so that BSON types, nulls and unknown fields are preserved.
    """
    if change.after is None:
        return None, {}
    if raw is None or flag is None:
        return _as_stored(_new_document(change.after, change.at, revision)), {}
    old, new = to_document(flag), to_document(change.after)
    fields = {n: _to_bson(n, raw.get(n), v) for n, v in new.items() if n not in old or not json_values.same(old[n], v)}
    # A malformed value is read as the default, so it must be replaced even by the default.
    for name in change.new or {}:
        if name in new and name not in _TIMES and not json_values.same(plain(raw.get(name)), new[name]):
            fields[name] = merged_bson(raw.get(name), new[name])
    fields["revision"] = revision
    removed = [name for name in old if name not in new and name not in _NEVER_UNSET]
    update: dict[str, Any] = {"$set": fields} | ({"$unset": dict.fromkeys(removed, "")} if removed else {})
    return _as_stored({name: value for name, value in raw.items() if name not in removed} | fields), update


def _new_document(flag: Flag, at: datetime, revision: int) -> dict[str, Any]:
    """Return a new flag's document. It always has the times that the existing system requires."""
    fields = {name: _to_bson(name, None, value) for name, value in to_document(flag).items()}
    return {"_id": ObjectId(), "createdAt": at, "updatedAt": at} | fields | {"revision": revision}


def _as_stored(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document as BSON stores it: times have only milliseconds."""
    return bson.decode(bson.encode(raw), codec_options=CODEC)


def history_document(change: Change, flag: Flag, revision: int) -> dict[str, Any]:
    """Return the history entry in the existing system's format, with flagsvc's additional fields."""
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
    if change.via:
        document["via"] = change.via
    return document | _caller_field(change) | _set_field(flag)


def audit_document(change: Change, flag: Flag, resource_id: object) -> dict[str, Any]:
    """Return the audit log entry. Toggles and config updates have the existing system's actions and metadata."""
    previous, new = change.previous or {}, change.new or {}
    names = {"featureKey": flag.key, "featureName": flag.name}
    if change.action in (Action.ENABLED, Action.DISABLED):
        action = "TOGGLE_FEATURE"
        values = {"oldStatus": previous.get("status"), "newStatus": new.get("status"), "action": change.action.value}
    elif change.action is Action.UPDATED and set(previous) == {"config"}:
        action = "UPDATE_FEATURE_CONFIG"
        values = {"oldConfig": previous.get("config"), "newConfig": new.get("config")}
    else:
        verbs = {Action.CREATED: "CREATE", Action.DELETED: "DELETE"}
        action = f"{verbs.get(change.action, 'UPDATE')}_FEATURE"
        values = {"previousValue": change.previous, "newValue": change.new}
    return {
        "action": action,
        "resourceType": "FEATURE_FLAG",
        "resourceId": resource_id,
        "userId": _user_id(change.actor),
        "metadata": names | values | _set_field(flag),
        "timestamp": change.at,
    } | _caller_field(change)


def history_entries(rows: list[bytes]) -> list[HistoryEntry]:
    """Read history documents in BSON, given newest first by time. Those with a revision are ordered by revision.

    The writers' clocks may disagree, but revisions do not. Entries of the existing system have no revision.
    """
    documents: Iterator[dict[str, Any]] = (bson.decode(row, codec_options=CODEC) for row in rows)
    entries = [_history_entry(document) for document in documents]
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
        caller=str(row.get("caller") or ""),
        via=str(row.get("via") or ""),
    )


def _plain_history(value: Any) -> JsonValue:
    return json_safe(_plain_document(value)) if isinstance(value, dict) else plain(value)


def _caller_field(change: Change) -> dict[str, str]:
    return {"caller": change.caller} if change.caller else {}


def _user_id(actor: str) -> ObjectId | str:
    return ObjectId(actor) if ObjectId.is_valid(actor) else actor


def _set_field(flag: Flag) -> dict[str, str]:
    return {} if flag.flag_set == DEFAULT_SET else {"flagSet": flag.flag_set}


def _plain_document(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document as JSON, except that its time fields are datetimes."""
    return {n: v if n in _TIMES and isinstance(v, datetime) else plain(v) for n, v in raw.items()}


def plain(value: Any) -> JsonValue:
    """Return a BSON value as JSON. Types that JSON lacks become relaxed Extended JSON, such as {"$date": ...}."""
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


def _to_bson(name: str, stored: Any, wanted: Any) -> Any:
    return wanted if name in _TIMES else merged_bson(stored, wanted)


def merged_bson(stored: Any, wanted: JsonValue) -> Any:
    """Return the wanted JSON as BSON. Parts that are equal to the stored ones keep their stored BSON type."""
    if json_values.same(plain(stored), wanted):
        return stored
    match wanted:
        case dict():
            typed = _typed(wanted)
            if typed is not None:
                return typed
            old = stored if isinstance(stored, dict) else {}
            return {name: merged_bson(old.get(name), part) for name, part in wanted.items()}
        case list():
            parts = stored[: len(wanted)] if isinstance(stored, list) else []
            return [merged_bson(part, new) for part, new in zip_longest(parts, wanted)]
        case int() if isinstance(stored, Int64) and not isinstance(wanted, bool):
            return Int64(wanted)
        case _:
            return wanted


def _typed(wanted: dict[str, Any]) -> Any:
    """Return the BSON value whose Extended JSON is exactly this object; None if it is an ordinary object."""
    if not any(name.startswith("$") for name in wanted):
        return None
    try:
        value = json_util.object_hook(dict(wanted), _EXTENDED)
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, bson.errors.BSONError):
        return None
    return value if not isinstance(value, dict) and json_values.same(plain(value), wanted) else None
