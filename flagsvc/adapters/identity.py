"""How a store's identity is made and named. Knows no store."""

from __future__ import annotations

import re
import secrets

from flagsvc.ports import StoreIdentity
from flagsvc.urls import redacted

MAX_NAME = 200
_UNPRINTABLE = re.compile(r"[^!-~]|'")


def new_id() -> str:
    """Return an id that no other store has."""
    return secrets.token_hex(8)


def identity_of(store_id: str, url: str) -> StoreIdentity:
    """Return an identity whose name is the store's URL without credentials."""
    return StoreIdentity(store_id, _UNPRINTABLE.sub("_", redacted(url))[:MAX_NAME])
