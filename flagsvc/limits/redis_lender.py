"""Lends shares from Redis: one script settles the shares of many callers in one round trip."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from flagsvc.adapters.redis.causes import redis_cause
from flagsvc.adapters.redis.client import BoundedClient
from flagsvc.adapters.redis.scripts import COMMON
from flagsvc.adapters.redis.timeouts import stall_tolerant_timeout
from flagsvc.limits.gcra import MAX_LEVELS, Lent, Wish
from flagsvc.limits.share import Share

TIMEOUT_S = 0.2
KEEP_MS = 1_000
"""So much longer than it counts, a key is kept."""

log = structlog.get_logger(__name__)

SETTLE = f"""{COMMON}
-- KEYS: after the owner a key for each share.
-- ARGV: after the store, for each share its rate, capacity, and the units charged, returned and wanted.
-- Returns the clock, then for each share the units granted and the room beyond. The steps are those of gcra.py.
local answer = {{micros}}
for number = 2, #KEYS do
  local at = 3 + (number - 2) * 5
  local rate, capacity = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  local charged, returned, wanted = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  local due = tonumber(text_at(KEYS[number])) or 0
  if due ~= due then due = 0 end
  local level = math.min(math.max(due - micros, 0) / 1e6 * rate, {MAX_LEVELS} * capacity)
  level = math.max(level + charged - returned, 0)
  local granted = math.min(wanted, math.max(capacity - level, 0))
  level = level + granted
  local seconds = level / rate
  local ttl = math.ceil(seconds * 1000) + {KEEP_MS}
  redis.call('SET', KEYS[number], string.format('%.0f', micros + seconds * 1e6), 'PX', ttl)
  answer[#answer + 1] = string.format('%.4f', granted)
  answer[#answer + 1] = string.format('%.4f', math.max(capacity - level, 0))
end
return answer
"""


class RedisLender:
    """Settles shares with Redis. It waits beside the calls, and what fails here does not count as a Redis outage."""

    def __init__(self, redis: BoundedClient) -> None:
        self._redis = redis
        redis.register(SETTLE)
        self.calls = 0
        self.cause = self.cure = ""

    async def settle(self, shares: Sequence[Share], wishes: Sequence[Wish]) -> list[Lent] | None:
        """Return what is lent to each share; None if Redis cannot be asked."""
        if not self._redis.available:
            return None
        keys = [self._redis.keys.limit(share.name) for share in shares]
        args: list[str] = []
        for share, wish in zip(shares, wishes, strict=True):
            limit = share.limit
            args += [format(number, ".4f") for number in (limit.rate, limit.capacity, *wish)]
        self.calls += 1
        try:
            async with stall_tolerant_timeout(TIMEOUT_S):
                answer = await self._redis.run(SETTLE, keys, args, client=self._redis.background)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001  whatever the driver raises, the limits go on without it
            self._note(error)
            return None
        self.cause = self.cure = ""
        numbers = [float(each) for each in answer[1:]]
        return [Lent(granted, room) for granted, room in zip(numbers[::2], numbers[1::2], strict=True)]

    def _note(self, error: Exception) -> None:
        cause = redis_cause(error)
        if cause.text != self.cause:
            log.warning("rate_limits_without_redis", cause=cause.text, detail=f"Do this: {cause.cure}.")
        self.cause, self.cure = cause.text, cause.cure
