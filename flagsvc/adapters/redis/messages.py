"""The texts that Redis holds and carries: entries, announced changes, heartbeats. Each is read back strictly.

Others may write to the same Redis, so whatever is read is a hint: it names its store, its sizes, counts and numbers are
bounded, and what is not as this module writes it is dropped.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from flagsvc.adapters.redis.report import status_in
from flagsvc.core import json_values
from flagsvc.core.bucketing import has_split
from flagsvc.core.documents import dumps, from_json
from flagsvc.core.model import MAX_REVISION, Flag, FlagId
from flagsvc.core.needs import NEEDS
from flagsvc.ports import Announced, Entry, Heartbeat, IdentityChanged, StoreIdentity, TokensChanged
from flagsvc.turns import off_loop

MAX_MESSAGE_BYTES = 8 * 1024 * 1024
LARGE_BYTES = 8_192
"""Longer texts are read outside the event loop: one of 64 kB can take 20 ms."""
MAX_INLINE_VALUES = 2_000
"""Fields and list elements of a definition that is written on the event loop."""
MAX_NAME = 1_024
MAX_SETS = 100_000
MAX_PEERS = 1_000
MAX_SECONDS = 1e9
_SCHEMA = "3"
_IDENTITY = re.compile(r"[!-~]{1,400}")
_NO_IDENTITY = StoreIdentity("-", "a store without identity, such as one of an older version")

Event = Announced | Heartbeat | IdentityChanged | TokensChanged


class OtherStore(Exception):
    """A message belongs to another store."""

    def __init__(self, identity: StoreIdentity) -> None:
        super().__init__(str(identity))
        self.identity = identity


async def definition_of(entry: Entry) -> str:
    """Return the entry's definition as JSON, or an empty text when the flag does not exist.

    One with many values is written outside the event loop.
    """
    flag = entry.flag
    if flag is None:
        return ""
    values = flag.variants, flag.metadata, flag.config
    if any(value and json_values.has_more_values(value, MAX_INLINE_VALUES) for value in values):
        return await off_loop(dumps, flag)
    return dumps(flag)


def entry_in(flag_id: FlagId, text: bytes | None, store_id: str) -> Entry | None:
    """Read `3:{store}:{as_of}:{revision}:{definition or nothing}`; None for anything else, and for another store's."""
    if text is None or len(text) > MAX_MESSAGE_BYTES:
        return None
    try:
        schema, store, as_of, revision, body = text.split(b":", 4)
        if schema.decode() != _SCHEMA or store.decode() != store_id or not (as_of.isdigit() and revision.isdigit()):
            return None
        return _entry(flag_id, int(revision), _flag(json.loads(body)) if body else None)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def announcement_text(change: Announced, definition: str, store: StoreIdentity) -> str:
    """Return an announced change, whose flag's definition is JSON already, as JSON."""
    entry = change.entry
    fields: dict[str, Any] = {"set": entry.id.flag_set, "key": entry.id.key, "revision": entry.revision}
    fields |= {"reply": True} if change.reply else {}
    fields |= {"eventRevision": change.event_revision} if change.event_revision else {}
    fields["store"] = [store.id, store.name]
    return f'{json.dumps(fields, ensure_ascii=False)[:-1]}, "flag": {definition or "null"}}}'


def identity_changed_text(store: StoreIdentity) -> str:
    """Return the message that a store, which is named by its identity before, has a new one."""
    return json.dumps({"identityChanged": True, "store": [store.id, store.name]})


def tokens_changed_text(store: StoreIdentity) -> str:
    """Return the message that tokens have changed."""
    return json.dumps({"tokensChanged": True, "store": [store.id, store.name]})


def heartbeat_text(heartbeat: Heartbeat, store: StoreIdentity) -> str:
    """Return a heartbeat as JSON. An infinite age is null."""
    fields: dict[str, Any] = {
        "heartbeat": heartbeat.number,
        "replica": heartbeat.replica,
        "revisions": dict(heartbeat.revisions),
        "ageS": _finite(heartbeat.age_s),
        "streamAgeS": _finite(heartbeat.stream_age_s),
        "lastSeen": {name: (number, _finite(age_s)) for name, (number, age_s) in heartbeat.last_seen.items()},
        "store": [store.id, store.name],
    }
    fields |= {"tokens": heartbeat.token_revision} if heartbeat.token_revision else {}
    if heartbeat.status is not None:
        fields["status"] = asdict(heartbeat.status) | {"started_at": heartbeat.status.started_at.isoformat()}
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def event_in(data: bytes, store_id: str) -> Event:
    """Read what the channel carries. Raises OtherStore, and ValueError for anything that this module did not write."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise ValueError("too large")
    try:
        fields = json.loads(data, parse_constant=_refuse)
        store = _identity(fields.get("store"))
        if store.id != store_id:
            raise OtherStore(store)
        if "identityChanged" in fields:
            return IdentityChanged()
        if "tokensChanged" in fields:
            return TokensChanged()
        return _heartbeat(fields) if "heartbeat" in fields else _announcement(fields)
    except (TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError("neither an announced change nor a heartbeat") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _identity(value: Any) -> StoreIdentity:
    if value is None:
        return _NO_IDENTITY
    store_id, name = value
    if not (_IDENTITY.fullmatch(store_id) and _IDENTITY.fullmatch(name)):
        raise ValueError("the store is not named as stores are")
    return StoreIdentity(store_id, name)


def _announcement(fields: Mapping[str, Any]) -> Announced:
    flag = _flag(fields["flag"]) if fields["flag"] is not None else None
    entry = _entry(FlagId(_name(fields["set"]), _name(fields["key"])), _count(fields["revision"]), flag)
    return Announced(entry, fields.get("reply") is True, _count(fields.get("eventRevision", 0)))


def _flag(document: Any) -> Flag:
    """Read a definition. Raises ValueError for one of an older release, which may have left out what it does not know.

    One that knows `needs` passes on the fields that it does not know, and one that knows the bucketing writes it.
    """
    flag = from_json(document)
    if "bucketing" not in document and has_split(flag):
        raise ValueError("an older release has read this definition without its bucketing")
    if NEEDS not in document:
        raise ValueError("an older release has read this definition without what it does not know")
    return flag


def _entry(flag_id: FlagId, revision: int, flag: Flag | None) -> Entry:
    """Return an entry whose parts agree. Raises ValueError."""
    if revision > MAX_REVISION or (flag is not None and (flag.id, flag.revision) != (flag_id, revision)):
        raise ValueError("the definition is another flag's, or of another revision")
    return Entry(flag_id, revision, flag)


def _heartbeat(fields: Mapping[str, Any]) -> Heartbeat:
    if len(fields["revisions"]) > MAX_SETS or len(fields["lastSeen"]) > MAX_PEERS:
        raise ValueError("too many flag sets or replicas")
    return Heartbeat(
        replica=_name(fields["replica"]),
        number=_count(fields["heartbeat"]),
        revisions={_name(name): _count(revision) for name, revision in fields["revisions"].items()},
        age_s=_seconds(fields["ageS"]),
        stream_age_s=_seconds(fields["streamAgeS"]),
        last_seen={_name(name): (_count(number), _seconds(age)) for name, (number, age) in fields["lastSeen"].items()},
        status=status_in(fields.get("status")),
        token_revision=_count(fields.get("tokens", 0)),
    )


def _name(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME or not json_values.is_text(value):
        raise ValueError("a name is a text of bounded length")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MAX_REVISION:
        raise ValueError("a revision is a whole number from 0 to 2**53")
    return value


def _finite(seconds: float) -> float | None:
    return seconds if math.isfinite(seconds) else None


def _seconds(value: Any) -> float:
    if value is None:
        return math.inf
    if type(value) not in (int, float) or not 0 <= value <= MAX_SECONDS:
        raise ValueError("an age is a number of seconds from 0 to 1e9")
    return float(value)
