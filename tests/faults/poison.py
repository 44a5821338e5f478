"""Poisoned messages and entries in Redis: another store's, out of bounds, or garbage. No answer may show them.

Their values are above STRANGERS, as those of the second deployment are, so the checker recognises them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import redis

from flagsvc.core.model import FlagId
from tests.servers import HOST
from tests.stores import CHANNEL, OWNER_KEY, cache_key

STRANGERS = 1_000_000_000
"""Values above this one belong to no write of the run."""
PRETENDER = "poison"
"""The name under which a poisoned heartbeat claims to be a replica."""
_MESSAGES = 20
_OTHER = ["0123456789abcdef", "mongodb://elsewhere/flags"]
_BEYOND = (2**63 - 4, 2**63 - 1, 2**53 + 1, 2**53, 2**40, 10**6)
_GARBAGE = ("", "{", "[" * 50_000, '{"heartbeat":NaN}', '{"revision":1' + "0" * 5_000 + "}", "\x00", "7")


def poison(port: int, flags: Sequence[str], dice: float) -> None:
    """Publish and put a handful of it. Does nothing where Redis is away."""
    drawn = random.Random(dice)
    client = redis.Redis(host=HOST, port=port, socket_timeout=2)
    try:
        for _ in range(_MESSAGES):
            flag = drawn.choice(flags)
            made = drawn.choice((_of_another_store, _beyond_bounds, _garbage, _heartbeat))
            client.publish(CHANNEL, made(client, flag, drawn))
        for text in (f"2:0:{10**6}:", f"3:{_OTHER[0]}:0:{10**6}:"):
            flag = drawn.choice(flags)
            client.set(cache_key(FlagId("default", flag)), text + json.dumps(_flag(flag, 10**6)), px=5_000)
    except redis.RedisError:
        return
    finally:
        client.close()


def _of_another_store(client: redis.Redis, flag: str, drawn: random.Random) -> str:
    """Announce a plausible revision of a store that nobody here has."""
    del client
    return _announcement(flag, drawn.randrange(1, 2_000), _OTHER)


def _beyond_bounds(client: redis.Redis, flag: str, drawn: random.Random) -> str:
    """Announce a revision that is out of bounds, or far ahead, as this store."""
    return _announcement(flag, drawn.choice(_BEYOND), _own(client))


def _garbage(client: redis.Redis, flag: str, drawn: random.Random) -> str:
    del client, flag
    return drawn.choice(_GARBAGE)


def _heartbeat(client: redis.Redis, flag: str, drawn: random.Random) -> str:
    """Claim, as a replica that is not there, to have applied more than there is."""
    del flag
    revisions = {"default": drawn.choice((10**6, 2**53, 2**70))}
    report = {"heartbeat": 1, "replica": PRETENDER, "revisions": revisions, "ageS": 0, "streamAgeS": 0, "lastSeen": {}}
    return json.dumps(report | {"store": _own(client)})


def _own(client: redis.Redis) -> list[str]:
    owner: Any = client.get(OWNER_KEY)
    return (owner or b"- -").decode().split(" ", 1)


def _announcement(flag: str, revision: int, store: list[str]) -> str:
    fields = {"set": "default", "key": flag, "revision": revision, "flag": _flag(flag, revision), "store": store}
    return json.dumps(fields)


def _flag(flag: str, revision: int) -> dict[str, Any]:
    """Return a definition whose value no write of the run has."""
    value = STRANGERS + revision % STRANGERS
    return {"key": flag, "status": "ENABLED", "variants": {"v": value}, "defaultVariant": "v", "revision": revision}
