"""What tests of single parts, and of replicas from outside, need to know of stores' identities and keys in Redis."""

from __future__ import annotations

import redis

from flagsvc.adapters.redis.keys import Keys
from flagsvc.ports import StoreIdentity

STORE = StoreIdentity("a1b2c3d4", "sqlite:///test.db")
OTHER_STORE = StoreIdentity("e5f6a7b8", "sqlite:///other.db")

KEYS = Keys()
CHANNEL, LEASE_KEY, OWNER_KEY = KEYS.channel, KEYS.lease, KEYS.owner
REPLICAS_KEY, HEARTBEATS_KEY = KEYS.heartbeats
cache_key, fill_key, flag_id_at = KEYS.entry, KEYS.fill, KEYS.flag_id_at


def owner_at(redis_url: str) -> StoreIdentity:
    """Return the store that owns the keys of a Redis."""
    with redis.Redis.from_url(redis_url) as direct:
        store_id, _, name = (direct.get(OWNER_KEY) or b"").decode().partition(" ")
    assert store_id, "no store owns the keys"
    return StoreIdentity(store_id, name)
