"""How a stored change gets to everybody: into the shared cache, then onto the channel. Used by whoever stored it."""

from __future__ import annotations

from enum import IntEnum

from flagsvc.ports import NEVER, Announced, Entry, FlagCache


class WriteLevel(IntEnum):
    """How far a change has spread, each level with those before it."""

    STORED = 1
    CACHED = 2
    APPLIED = 3


async def publish_change(
    cache: FlagCache | None, entry: Entry, as_of: float = NEVER, *, reply: bool = False
) -> WriteLevel:
    """Put and announce a change that was not yet there at `as_of`; the order is what keeps late readers harmless.

    `reply`: replicas say at once when they have applied it. Gives STORED when a step could not be done.
    """
    if cache is None:
        return WriteLevel.STORED
    put = await cache.put([entry], as_of)
    announced = await cache.announce(Announced(entry, reply))
    return WriteLevel.CACHED if put and announced else WriteLevel.STORED
