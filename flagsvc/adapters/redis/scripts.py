"""The scripts that Redis runs. Knows no client.

Every script begins with KEYS[1], which names the store that owns all keys, and with ARGV[1] and ARGV[2], the caller's
store and its name for people. Where another store owns the keys, a script does nothing and fails with FOREIGN; where
none does, the caller's store becomes the owner. What is kept carries its store too, because an owner may change.

Moments in Redis are milliseconds of its own clock, so that no replica's clock matters. Each script returns that clock's
microseconds first. Moment 0 means: not verified.
"""

from __future__ import annotations

from flagsvc.core.model import MAX_REVISION

FOREIGN = "FOREIGN "
"""The beginning of the error when another store owns the keys; that store's id and name follow."""
OWNER_MS = 30_000
"""For so long a store owns the keys after the newest heartbeat of its replicas."""
MAX_HEARTBEATS, MAX_HEARTBEAT_BYTES, MAX_HEARTBEAT_MS = 1_000, 1_000_000, 3_600_000
"""More replicas than these, larger heartbeats, and such that live longer, are not read."""
MAX_LEASE_MS = 300_000
"""The longest lease, that of the largest staleness bound."""
PROBE_MESSAGE = "probe"
"""What a probe publishes; nobody takes it for anything."""
FILL_MS = 1_000
"""For so long one caller of all replicas fills an entry, while the others wait for it."""

_CLOCK = """
local clock = redis.call('TIME')
local micros = clock[1] * 1000000 + clock[2]
local now = math.floor(micros / 1000)

-- A key of another type counts as empty, and is replaced.
local function text_at(key)
  local text = redis.pcall('GET', key)
  return type(text) == 'string' and text or ''
end
"""

COMMON = f"""{_CLOCK}
local owner = text_at(KEYS[1])
local owner_id = string.match(owner, '^([^ ]+) ')
if not owner_id then
  redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. ARGV[2], 'PX', {OWNER_MS})
elseif owner_id ~= ARGV[1] then
  if redis.call('PTTL', KEYS[1]) == -1 then redis.call('PEXPIRE', KEYS[1], {OWNER_MS}) end
  return redis.error_reply('{FOREIGN}' .. string.sub(owner, 1, 400))
end

-- A moment in the future was written before the clock went back: it verifies nothing.
local function past(moment)
  moment = tonumber(moment) or 0
  return moment > now + 50 and 0 or math.min(moment, now)
end

-- Returns as_of, revision and whether there is a definition; nothing where the text is no entry of this store.
local function entry_in(text)
  local mark = '3:' .. ARGV[1] .. ':'
  if string.sub(text, 1, #mark) ~= mark then return end
  local as_of, revision, start = string.match(text, '^(%d+):(%d+):()', #mark + 1)
  if not as_of or tonumber(revision) > {MAX_REVISION} then return end
  local defined = start <= #text
  if defined and not (string.sub(text, start, start) == '{{' and string.sub(text, -1) == '}}') then return end
  return past(as_of), tonumber(revision), defined
end

-- Returns holder, verified_from and verified_until of this store's lease record; nothing where none counts.
local function lease_in(text)
  local store, holder, from, untl = string.match(text, '^([^:]+):([^:]+):[^:]+:(%d+):(%d+)$')
  if store ~= ARGV[1] or past(untl) == 0 then return end
  return holder, tonumber(from), past(untl)
end
"""

PUT = f"""{COMMON}
-- KEYS: after the owner the entry, who fills it, the lease record.
-- ARGV: after the store revision, definition or nothing, as_of, time to live in ms, 1 for a fill, 1 to force.
-- Returns the clock: in any case nothing older than this is there now.
local as_of = past(ARGV[5])
if ARGV[7] == '1' then redis.call('DEL', KEYS[3]) end
local revision, defined, ttl = tonumber(ARGV[3]), ARGV[4] ~= '', tonumber(ARGV[6])
local held_as_of, held_revision, held_defined = entry_in(text_at(KEYS[2]))
-- Older than what the lease certifies, with no certified entry to compare with: a newer one may have been here. The
-- entry is kept, but not as verified.
local _, from, untl = lease_in(text_at(KEYS[4]))
if untl and as_of < untl and not (held_as_of and held_as_of >= from) then as_of = 0 end
if held_as_of and ARGV[8] ~= '1' then
  if held_revision > revision then return {{micros}} end
  -- A writer that counts no revisions may have changed an equal revision; a deletion always gets a new one.
  local keeps = held_as_of > as_of or (held_defined and not defined)
  if held_revision == revision and keeps then return {{micros}} end
end
-- A tombstone keeps its time to live, also where the flag is merely not found again.
if held_as_of and not held_defined and not defined then ttl = math.max(ttl, redis.call('PTTL', KEYS[2])) end
local text = '3:' .. ARGV[1] .. ':' .. string.format('%.0f', as_of) .. ':' .. ARGV[3] .. ':' .. ARGV[4]
redis.call('SET', KEYS[2], text, 'PX', ttl)
return {{micros}}
"""

FETCH = f"""{COMMON}
-- KEYS: after the owner the lease record, then of each flag the entry and who fills it.
-- ARGV: after the store most ms since an entry was verified, how many ms a fill may take.
-- Returns after the clock for each flag the entry's text, as of when it is verified, and 1 when the caller fills it.
local _, from, untl = lease_in(text_at(KEYS[2]))
local found = {{micros}}
for number = 3, #KEYS, 2 do
  local text = text_at(KEYS[number])
  local as_of = entry_in(text)
  if as_of and from and as_of >= from then as_of = math.max(as_of, untl) end
  local fills = 0
  if not as_of or now - as_of > tonumber(ARGV[3]) then
    if redis.call('SET', KEYS[number + 1], '1', 'NX', 'PX', ARGV[4]) then fills = 1 end
  end
  local size = #found
  found[size + 1], found[size + 2], found[size + 3] = as_of and text or false, as_of or 0, fills
end
return found
"""

LEASE = f"""{COMMON}
-- KEYS: after the owner the lease record.
-- ARGV: after the store the record that must be there (none: acquire), holder, nonce, as_of, the lease in ms.
-- Returns the state of the lease, the record written, and how many ms it lasts.
local as_of, held, acquire = past(ARGV[6]), text_at(KEYS[2]), ARGV[3] == ''
-- A record that never expires was not written here: it must not keep the lease for ever.
local ttl = redis.call('PTTL', KEYS[2])
if ttl == -1 or ttl > {MAX_LEASE_MS} then redis.call('PEXPIRE', KEYS[2], ARGV[7]) end
local holder, from = lease_in(held)
if holder and holder ~= ARGV[4] then return {{micros, 'held_by_other', '', 0}} end
local left = as_of + tonumber(ARGV[7]) - now
if as_of == 0 or left <= 0 or not (holder or acquire) then return {{micros, 'expired', '', 0}} end
if acquire then from = as_of
elseif held ~= ARGV[3] then return {{micros, 'replaced', '', 0}} end
local record = table.concat({{ARGV[1], ARGV[4], ARGV[5], string.format('%.0f:%.0f', from, as_of)}}, ':')
redis.call('SET', KEYS[2], record, 'PX', left)
return {{micros, 'held', record, left}}
"""

_LIVE = f"""{COMMON}
if redis.call('TYPE', KEYS[2]).ok ~= 'zset' then redis.call('DEL', KEYS[2]) end
if redis.call('TYPE', KEYS[3]).ok ~= 'hash' then redis.call('DEL', KEYS[3]) end
-- What has run out, and what would never do so, which was not written here.
local function drop(lowest, highest)
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], lowest, highest, 'LIMIT', 0, {MAX_HEARTBEATS})) do
    redis.call('ZREM', KEYS[2], name)
    redis.call('HDEL', KEYS[3], name)
  end
end
drop('-inf', now)
drop(now + {MAX_HEARTBEAT_MS}, '+inf')
"""

HEARTBEAT = f"""{_LIVE}
-- KEYS: after the owner replicas by the end of their heartbeats, heartbeats.
-- ARGV: after the store replica, heartbeat or nothing, its ms, the channel.
-- The store owns the keys for a while after each heartbeat, and until its last replica has stopped.
redis.call('ZREM', KEYS[2], ARGV[3])
redis.call('HDEL', KEYS[3], ARGV[3])
if ARGV[4] ~= '' then
  redis.call('ZADD', KEYS[2], now + tonumber(ARGV[5]), ARGV[3])
  redis.call('HSET', KEYS[3], ARGV[3], string.format('%.0f:', now) .. ARGV[4])
  redis.call('PUBLISH', ARGV[6], ARGV[4])
  redis.call('PEXPIRE', KEYS[1], {OWNER_MS})
end
local last = redis.call('ZREVRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
if last then
  last = string.format('%.0f', last)
  redis.call('PEXPIREAT', KEYS[2], last)
  redis.call('PEXPIREAT', KEYS[3], last)
else
  redis.call('DEL', KEYS[1])
end
return {{micros}}
"""

HEARTBEATS = f"""{_LIVE}
-- KEYS and ARGV: as above. Returns the heartbeats, each after the moment when it was sent.
local found = {{}}
for _, name in ipairs(redis.call('ZRANGE', KEYS[2], 0, {MAX_HEARTBEATS - 1})) do
  local heartbeat = redis.call('HGET', KEYS[3], name)
  local sent = string.match(heartbeat or '', '^(%d+):')
  if sent and past(sent) > 0 and #heartbeat <= {MAX_HEARTBEAT_BYTES} then found[#found + 1] = heartbeat end
end
return {{micros, found}}
"""

HAND_OVER = """
-- KEYS: the owner. ARGV: the owner that must be there, the next owner and its name, in ms how long it owns the keys.
-- After a resync the keys belong to the same store under its new identity, and what they hold is not believed.
local owner = redis.pcall('GET', KEYS[1])
if type(owner) == 'string' and string.match(owner, '^([^ ]+) ') == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[2] .. ' ' .. ARGV[3], 'PX', ARGV[4])
end
"""

PROBE = f"""{_CLOCK}
-- KEYS: an entry that no flag has, who fills it, the lease record, the two of the heartbeats, the owner.
-- ARGV: the channel.
-- Runs each command that the other scripts run, and leaves nothing behind. SET comes first: a Redis whose memory is
-- full refuses only a script's first write.
redis.call('SET', KEYS[1], '', 'PX', 1000)
redis.call('PTTL', KEYS[1])
redis.call('DEL', KEYS[1], KEYS[2])
for number = 3, 6 do redis.call('TYPE', KEYS[number]) end
text_at(KEYS[3])
redis.call('ZADD', KEYS[1], 1, 'probe')
redis.call('PEXPIREAT', KEYS[1], now + 1000)
redis.call('PEXPIRE', KEYS[1], 1000)
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


ALL = (PUT, FETCH, LEASE, HEARTBEAT, HEARTBEATS, HAND_OVER, PROBE)
