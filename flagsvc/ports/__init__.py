"""What the middle needs of the outside. Adapters implement these protocols; nothing here knows a driver.

An `as_of` is a moment of this process's `time.monotonic()`: what comes with it is not older than the store was then.
"""

from flagsvc.ports.cache import CacheEvent, FlagCache, Found, LeaseAnswer, LeaseState
from flagsvc.ports.changes import (
    NEVER,
    Announced,
    Checkpoint,
    Entry,
    Family,
    IdentityChanged,
    StoreContents,
    StoreEvent,
    StoreIdentity,
    Subscribed,
    TokensChanged,
    UnversionedChange,
)
from flagsvc.ports.reports import Heartbeat, Problem, ReplicaStatus
from flagsvc.ports.snapshot import AccessToSave, Saved, SavedAccess, Snapshot
from flagsvc.ports.store import ChangeFeed, ChangesUnsupported, FlagStore
from flagsvc.ports.tokens import StoredTokens, TokenStore

__all__ = [
    "NEVER",
    "AccessToSave",
    "Announced",
    "CacheEvent",
    "ChangeFeed",
    "ChangesUnsupported",
    "Checkpoint",
    "Entry",
    "Family",
    "FlagCache",
    "FlagStore",
    "Found",
    "Heartbeat",
    "IdentityChanged",
    "LeaseAnswer",
    "LeaseState",
    "Problem",
    "ReplicaStatus",
    "Saved",
    "SavedAccess",
    "Snapshot",
    "StoreContents",
    "StoreEvent",
    "StoreIdentity",
    "StoredTokens",
    "Subscribed",
    "TokenStore",
    "TokensChanged",
    "UnversionedChange",
]
