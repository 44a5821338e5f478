"""What is said to Redis and read from it: scripts, key names, text forms. Knows no client.

Moments in Redis are milliseconds of its own clock, so no replica's clock matters. Each script answers first with that
clock's microseconds. Moment 0: nobody vouches for it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

from flagsvc.core.documents import dumps, loads
from flagsvc.core.model import DEFAULT_SET, FlagId
from flagsvc.ports import Announced, Entry, Event, Heartbeat

CHANNEL = "flagsvc:changes"
MARK_KEY = "flagsvc:vouched"
REPORT_KEYS = ("flagsvc:replicas", "flagsvc:reports")
ENTRY_KEYS = "feature-flag[:@]*"
LEASE_MS = 1_000
_SCHEMA = "2"

_COMMON = """
local clock = redis.call('TIME')
local micros = clock[1] * 1000000 + clock[2]
local now = math.floor(micros / 1000)

-- Another type than a text counts as nothing, and is replaced.
local function text_at(key)
  local text = redis.pcall('GET', key)
  return type(text) == 'string' and text or ''
end

-- A moment in the future was written before the clock went back: it is worth nothing.
local function believed(moment)
  moment = tonumber(moment)
  return moment > now + 50 and 0 or math.min(moment, now)
end

-- Gives as_of, revision and whether there is a definition; nothing where the text is no entry.
local function entry_in(text)
  local as_of, revision, start = string.match(text, '^2:(%d+):(%d+):()')
  if not as_of then return end
  local defined = start <= #text
  if defined and not (string.sub(text, start, start) == '{' and string.sub(text, -1) == '}') then return end
  return believed(as_of), tonumber(revision), defined
end

-- Gives holder, since and upto of the mark; nothing where none counts.
local function mark_in(text)
  local holder, since, upto = string.match(text, '^([^:]+):[^:]+:(%d+):(%d+)$')
  if not holder or believed(upto) == 0 then return end
  return holder, tonumber(since), believed(upto)
end
"""

PUT = f"""{_COMMON}
-- KEYS: the entry, its lease, the mark.
-- ARGV: revision, definition or nothing, as_of, time to live in ms, fence, 1 to force.
-- Answers 1 when nothing older than this is there now, 0 when it is refused.
local as_of, fence = believed(ARGV[3]), ARGV[5]
local function fine()
  if fence ~= '' then redis.call('DEL', KEYS[2]) end
  return {{micros, 1}}
end

if fence ~= '' and text_at(KEYS[2]) ~= fence then return {{micros, 0}} end
-- What comes late may have been overtaken by one that was evicted already.
if as_of > 0 and now - as_of > 5000 then return {{micros, 0}} end

local revision, defined, ttl = tonumber(ARGV[1]), ARGV[2] ~= '', tonumber(ARGV[4])
local held_as_of, held_revision, held_defined = entry_in(text_at(KEYS[1]))
-- Older than what the mark speaks of, and nothing that it speaks of is there to compare with: what was there may have
-- been newer. It is kept, but nobody vouches for it.
local _, since, upto = mark_in(text_at(KEYS[3]))
if upto and as_of < upto and not (held_as_of and held_as_of >= since) then as_of = 0 end
if held_as_of and ARGV[6] ~= '1' then
  if held_revision > revision then return fine() end
  -- An equal revision may have been changed by a writer that knows none; a deletion always gets a new one.
  if held_revision == revision and (held_as_of > as_of or (held_defined and not defined)) then return fine() end
end
-- A tombstone keeps its time, also where the flag is merely not found again.
if held_as_of and not held_defined and not defined then ttl = math.max(ttl, redis.call('PTTL', KEYS[1])) end
local text = '2:' .. string.format('%.0f', as_of) .. ':' .. ARGV[1] .. ':' .. ARGV[2]
redis.call('SET', KEYS[1], text, 'PX', ttl)
return fine()
"""

FETCH = f"""{_COMMON}
-- KEYS: the entry, its lease, the mark. ARGV: the most ms since it was vouched for, a token, the lease's ms.
-- Answers the entry's text, since when it may be old, and 1 when the lease was taken.
local text = text_at(KEYS[1])
local as_of = entry_in(text)
if as_of then
  local _, since, upto = mark_in(text_at(KEYS[3]))
  if since and as_of >= since then as_of = math.max(as_of, upto) end
end
local leased = 0
if not as_of or now - as_of > tonumber(ARGV[1]) then
  if redis.call('SET', KEYS[2], ARGV[2], 'NX', 'PX', ARGV[3]) then leased = 1 end
end
return {{micros, as_of and text or false, as_of or 0, leased}}
"""

VOUCH = f"""{_COMMON}
-- KEYS: the mark. ARGV: the mark that must be there, holder, nonce, as_of, how many ms it lasts from then, 1 for anew.
-- Answers what became of it, and the mark.
local as_of, held, anew = believed(ARGV[4]), text_at(KEYS[1]), ARGV[6] == '1'
local holder, since = mark_in(held)
if holder and holder ~= ARGV[2] then return {{micros, 'others', ''}} end
local left = as_of + tonumber(ARGV[5]) - now
if as_of == 0 or left <= 0 then return {{micros, 'lost', ''}} end
if anew then since = as_of
elseif not holder or held ~= ARGV[1] then return {{micros, 'lost', ''}} end
local mark = ARGV[2] .. ':' .. ARGV[3] .. ':' .. string.format('%.0f:%.0f', since, as_of)
redis.call('SET', KEYS[1], mark, 'PX', left)
return {{micros, 'kept', mark}}
"""

_LIVE = f"""{_COMMON}
if redis.call('TYPE', KEYS[1]).ok ~= 'zset' then redis.call('DEL', KEYS[1]) end
if redis.call('TYPE', KEYS[2]).ok ~= 'hash' then redis.call('DEL', KEYS[2]) end
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do
  redis.call('ZREM', KEYS[1], name)
  redis.call('HDEL', KEYS[2], name)
end
"""

REPORT = f"""{_LIVE}
-- KEYS: replicas by the end of their reports, reports. ARGV: replica, text or nothing, how many ms it lasts.
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
if ARGV[2] ~= '' then
  redis.call('ZADD', KEYS[1], now + tonumber(ARGV[3]), ARGV[1])
  redis.call('HSET', KEYS[2], ARGV[1], string.format('%.0f:', now) .. ARGV[2])
end
local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
if last then
  redis.call('PEXPIREAT', KEYS[1], last)
  redis.call('PEXPIREAT', KEYS[2], last)
end
return {{micros}}
"""

REPORTS = f"""{_LIVE}
-- KEYS: as above. Answers the reports, each behind the moment when it was made.
local reports = {{}}
for _, name in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local report = redis.call('HGET', KEYS[2], name)
  local made = string.match(report or '', '^(%d+):')
  if made and believed(made) > 0 then reports[#reports + 1] = report end
end
return {{micros, reports}}
"""

ALL = (PUT, FETCH, VOUCH, REPORT, REPORTS)


def cache_key(flag_id: FlagId) -> str:
    """Where an entry stands: `feature-flag:{key}` in the default set, `feature-flag@{set}:{key}` in others."""
    return "feature-flag" + _place(flag_id)


def lease_key(flag_id: FlagId) -> str:
    """Where it stands who reads the store for this entry now."""
    return "feature-flag-lease" + _place(flag_id)


def _place(flag_id: FlagId) -> str:
    if flag_id.flag_set == DEFAULT_SET:
        return f":{flag_id.key}"
    return f"@{quote(flag_id.flag_set, safe='')}:{flag_id.key}"


def flag_id_at(key: bytes) -> FlagId | None:
    """Give the flag whose entry stands there; None when the key is not one of ours."""
    try:
        before, _, name = key.decode().partition(":")
    except UnicodeDecodeError:
        return None
    flag_set = unquote(before.removeprefix("feature-flag").removeprefix("@")) or DEFAULT_SET
    flag_id = FlagId(flag_set, name)
    return flag_id if cache_key(flag_id).encode() == key else None


def definition_of(entry: Entry) -> str:
    """Give the entry's definition as its text holds it: JSON, or nothing when it is absent."""
    return dumps(entry.flag) if entry.flag else ""


def entry_in(flag_id: FlagId, text: bytes | None) -> Entry | None:
    """Read `2:{as_of}:{revision}:{definition or nothing}`; None for anything else."""
    if text is None:
        return None
    try:
        schema, as_of, revision, body = text.split(b":", 3)
        if schema.decode() != _SCHEMA or not as_of.isdigit():
            return None
        return Entry(flag_id, int(revision), loads(body) if body else None)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def message_of(event: Announced | Heartbeat) -> str:
    """Give the event as JSON."""
    if isinstance(event, Heartbeat):
        told: dict[str, Any] = {"beat": event.number, "replica": event.replica, "revisions": dict(event.revisions)}
        told |= {"age": event.age_s if math.isfinite(event.age_s) else None, "heard": dict(event.heard)}
        return json.dumps(told, ensure_ascii=False)
    entry = event.entry
    document = json.loads(dumps(entry.flag)) if entry.flag else None
    told = {"set": entry.id.flag_set, "key": entry.id.key, "revision": entry.revision, "flag": document}
    told |= {"reply": True} if event.reply else {}
    told |= {"passed": event.passed} if event.passed else {}
    return json.dumps(told, ensure_ascii=False)


def event_in(data: bytes) -> Event | None:
    """Read what `message_of` wrote; None for what an older release says. Raises ValueError for anything else."""
    try:
        told = json.loads(data)
        if "beat" not in told:
            flag = loads(json.dumps(told["flag"])) if told["flag"] is not None else None
            entry = Entry(FlagId(str(told["set"]), str(told["key"])), int(told["revision"]), flag)
            return Announced(entry, told.get("reply") is True, int(told.get("passed", 0)))
        if isinstance(told["beat"], Mapping) and len(told) == 1:
            return None
        age_s = math.inf if told["age"] is None else float(told["age"])
        if not age_s >= 0:
            raise ValueError("nothing is younger than now")
        return Heartbeat(
            str(told["replica"]), int(told["beat"]), _counts(told["revisions"]), age_s, _counts(told["heard"])
        )
    except (TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError("no message of ours") from error


def _counts(told: Mapping[str, Any]) -> dict[str, int]:
    return {name: int(number) for name, number in told.items()}
