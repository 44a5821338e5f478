"""The scripts that Redis runs, and the names of its keys. Knows no client.

Moments in Redis are milliseconds of its own clock, so that no replica's clock matters. Each script returns that clock's
microseconds first. Moment 0 means: not verified.
"""

from __future__ import annotations

from urllib.parse import quote, unquote

from flagsvc.core.model import DEFAULT_SET, FlagId

CHANNEL = "flagsvc:changes"
PROBE_MESSAGE = "probe"
"""What a probe publishes; nobody takes it for anything."""
LEASE_KEY = "flagsvc:cache-lease"
HEARTBEAT_KEYS = ("flagsvc:replicas", "flagsvc:heartbeats")
ENTRY_KEYS = "feature-flag[:@]*"
FILL_MS = 1_000
"""For so long one caller of all replicas fills an entry, while the others wait for it."""

_COMMON = """
local clock = redis.call('TIME')
local micros = clock[1] * 1000000 + clock[2]
local now = math.floor(micros / 1000)

-- A key of another type counts as empty, and is replaced.
local function text_at(key)
  local text = redis.pcall('GET', key)
  return type(text) == 'string' and text or ''
end

-- A moment in the future was written before the clock went back: it verifies nothing.
local function past(moment)
  moment = tonumber(moment)
  return moment > now + 50 and 0 or math.min(moment, now)
end

-- Returns as_of, revision and whether there is a definition; nothing where the text is no entry.
local function entry_in(text)
  local as_of, revision, start = string.match(text, '^2:(%d+):(%d+):()')
  if not as_of then return end
  local defined = start <= #text
  if defined and not (string.sub(text, start, start) == '{' and string.sub(text, -1) == '}') then return end
  return past(as_of), tonumber(revision), defined
end

-- Returns holder, verified_from and verified_until of the lease record; nothing where none counts.
local function lease_in(text)
  local holder, from, untl = string.match(text, '^([^:]+):[^:]+:(%d+):(%d+)$')
  if not holder or past(untl) == 0 then return end
  return holder, tonumber(from), past(untl)
end
"""

PUT = f"""{_COMMON}
-- KEYS: the entry, who fills it, the lease record.
-- ARGV: revision, definition or nothing, as_of, time to live in ms, 1 for a fill, 1 to force.
-- Returns the clock: in any case nothing older than this is there now.
local as_of = past(ARGV[3])
if ARGV[5] == '1' then redis.call('DEL', KEYS[2]) end
local revision, defined, ttl = tonumber(ARGV[1]), ARGV[2] ~= '', tonumber(ARGV[4])
local held_as_of, held_revision, held_defined = entry_in(text_at(KEYS[1]))
-- Older than what the lease certifies, with no certified entry to compare with: a newer one may have been here. The
-- entry is kept, but not as verified.
local _, from, untl = lease_in(text_at(KEYS[3]))
if untl and as_of < untl and not (held_as_of and held_as_of >= from) then as_of = 0 end
if held_as_of and ARGV[6] ~= '1' then
  if held_revision > revision then return {{micros}} end
  -- A writer that counts no revisions may have changed an equal revision; a deletion always gets a new one.
  local keeps = held_as_of > as_of or (held_defined and not defined)
  if held_revision == revision and keeps then return {{micros}} end
end
-- A tombstone keeps its time to live, also where the flag is merely not found again.
if held_as_of and not held_defined and not defined then ttl = math.max(ttl, redis.call('PTTL', KEYS[1])) end
local text = '2:' .. string.format('%.0f', as_of) .. ':' .. ARGV[1] .. ':' .. ARGV[2]
redis.call('SET', KEYS[1], text, 'PX', ttl)
return {{micros}}
"""

FETCH = f"""{_COMMON}
-- KEYS: the entry, who fills it, the lease record. ARGV: most ms since it was verified, how many ms a fill may take.
-- Returns the entry's text, as of when it is verified, and 1 when the caller is the one that fills.
local text = text_at(KEYS[1])
local as_of = entry_in(text)
if as_of then
  local _, from, untl = lease_in(text_at(KEYS[3]))
  if from and as_of >= from then as_of = math.max(as_of, untl) end
end
local fills = 0
if not as_of or now - as_of > tonumber(ARGV[1]) then
  if redis.call('SET', KEYS[2], '1', 'NX', 'PX', ARGV[2]) then fills = 1 end
end
return {{micros, as_of and text or false, as_of or 0, fills}}
"""

LEASE = f"""{_COMMON}
-- KEYS: the lease record. ARGV: the record that must be there (none: acquire), holder, nonce, as_of, the lease in ms.
-- Returns the state of the lease, the record written, and how many ms it lasts.
local as_of, held, acquire = past(ARGV[4]), text_at(KEYS[1]), ARGV[1] == ''
local holder, from = lease_in(held)
if holder and holder ~= ARGV[2] then return {{micros, 'held_by_other', '', 0}} end
local left = as_of + tonumber(ARGV[5]) - now
if as_of == 0 or left <= 0 or not (holder or acquire) then return {{micros, 'expired', '', 0}} end
if acquire then from = as_of
elseif held ~= ARGV[1] then return {{micros, 'replaced', '', 0}} end
local record = ARGV[2] .. ':' .. ARGV[3] .. ':' .. string.format('%.0f:%.0f', from, as_of)
redis.call('SET', KEYS[1], record, 'PX', left)
return {{micros, 'held', record, left}}
"""

_LIVE = f"""{_COMMON}
if redis.call('TYPE', KEYS[1]).ok ~= 'zset' then redis.call('DEL', KEYS[1]) end
if redis.call('TYPE', KEYS[2]).ok ~= 'hash' then redis.call('DEL', KEYS[2]) end
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do
  redis.call('ZREM', KEYS[1], name)
  redis.call('HDEL', KEYS[2], name)
end
"""

HEARTBEAT = f"""{_LIVE}
-- KEYS: replicas by the end of their heartbeats, heartbeats. ARGV: replica, heartbeat or nothing, its ms, the channel.
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
if ARGV[2] ~= '' then
  redis.call('ZADD', KEYS[1], now + tonumber(ARGV[3]), ARGV[1])
  redis.call('HSET', KEYS[2], ARGV[1], string.format('%.0f:', now) .. ARGV[2])
  redis.call('PUBLISH', ARGV[4], ARGV[2])
end
local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
if last then
  redis.call('PEXPIREAT', KEYS[1], last)
  redis.call('PEXPIREAT', KEYS[2], last)
end
return {{micros}}
"""

HEARTBEATS = f"""{_LIVE}
-- KEYS: as above. Returns the heartbeats, each after the moment when it was sent.
local found = {{}}
for _, name in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local heartbeat = redis.call('HGET', KEYS[2], name)
  local sent = string.match(heartbeat or '', '^(%d+):')
  if sent and past(sent) > 0 then found[#found + 1] = heartbeat end
end
return {{micros, found}}
"""

PROBE = f"""{_COMMON}
-- KEYS: an entry that no flag has, who fills it, the lease record, and the two of the heartbeats. ARGV: the channel.
-- Runs each command that the other scripts run, and leaves nothing behind. SET comes first: a Redis whose memory is
-- full refuses only a script's first write.
redis.call('SET', KEYS[1], '', 'PX', 1000)
redis.call('PTTL', KEYS[1])
redis.call('DEL', KEYS[1], KEYS[2])
for number = 3, 5 do redis.call('TYPE', KEYS[number]) end
text_at(KEYS[3])
redis.call('ZADD', KEYS[1], 1, 'probe')
redis.call('PEXPIREAT', KEYS[1], now + 1000)
redis.call('ZRANGE', KEYS[1], 0, -1)
redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')
redis.call('ZREM', KEYS[1], 'probe')
redis.call('HSET', KEYS[1], 'probe', '')
redis.call('HGET', KEYS[1], 'probe')
redis.call('HDEL', KEYS[1], 'probe')
redis.call('PUBLISH', ARGV[1], '{PROBE_MESSAGE}')
return {{micros}}
"""

ALL = (PUT, FETCH, LEASE, HEARTBEAT, HEARTBEATS)


def cache_key(flag_id: FlagId) -> str:
    """Return an entry's key: `feature-flag:{key}` in the default set, `feature-flag@{set}:{key}` in others."""
    return "feature-flag" + _suffix(flag_id)


def fill_key(flag_id: FlagId) -> str:
    """Return the key that one caller of all replicas holds while it fills this entry."""
    return "feature-flag-fill" + _suffix(flag_id)


def _suffix(flag_id: FlagId) -> str:
    if flag_id.flag_set == DEFAULT_SET:
        return f":{flag_id.key}"
    return f"@{quote(flag_id.flag_set, safe='')}:{flag_id.key}"


def flag_id_at(key: bytes) -> FlagId | None:
    """Return the flag whose entry has this key; None when the key is not one of ours."""
    try:
        before, _, name = key.decode().partition(":")
    except UnicodeDecodeError:
        return None
    flag_set = unquote(before.removeprefix("feature-flag").removeprefix("@")) or DEFAULT_SET
    flag_id = FlagId(flag_set, name)
    return flag_id if cache_key(flag_id).encode() == key else None
