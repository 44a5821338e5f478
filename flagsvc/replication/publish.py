"""How a stored change reaches every replica: into the shared cache, then onto its channel."""

from __future__ import annotations

from enum import IntEnum

from flagsvc.ports import NEVER, Announced, Entry, FlagCache


class WriteLevel(IntEnum):
    """How far a change has spread; each level includes those before it."""

    STORED = 1
    CACHED = 2
    APPLIED = 3


async def publish_change(
    cache: FlagCache | None, entry: Entry, as_of: float = NEVER, *, reply: bool = False
) -> WriteLevel:
    """Put and announce a change that the store did not have before `as_of`.

    The order matters: once a replica has heard of the change, no late reader of the cache can return to an older one.
    `reply`: replicas send a heartbeat as soon as they have applied it. Return STORED when a step failed.
    """
    if cache is None:
        return WriteLevel.STORED
    put = await cache.put([entry], as_of)
    announced = await cache.announce(Announced(entry, reply))
    return WriteLevel.CACHED if put and announced else WriteLevel.STORED
