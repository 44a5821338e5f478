"""To which store this process, and the keys that it uses in Redis, belong. Knows no client.

One store at a time owns the keys under a prefix in a database. For a process of another store the cache is down: it
neither reads nor writes there, and runs from its own store.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import structlog

from flagsvc.adapters.redis.scripts import FOREIGN
from flagsvc.ports import Problem, StoreIdentity

_REFUSED = re.compile(FOREIGN + r"([!-~]+) ([!-&(-~]+)")
_UNPRINTABLE = re.compile(r"[^ -~]")
OTHER_PREFIX = "give each deployment on one Redis its own FLAGSVC_CACHE_PREFIX or database number"
_OF_ANOTHER = f"Another store announces its changes on the same channel. Do this: {OTHER_PREFIX}."
_OF_BEFORE = (
    "The sender has the identity that this store had before its last resync. That is normal for a moment, until every"
    f" replica has the new one. If a deployment of its own works on a copy of this store, do this: {OTHER_PREFIX}."
)
MAX_NAME = 400
MAX_LOGGED = 100
"""Most other stores that are named in the log, once each."""

log = structlog.get_logger(__name__)


class Ownership:
    """`identity`: this process's store, None until it is known. `before`: its identity before the present one.

    `owner`: the other store that owns the keys, as last seen; None where there is none.
    """

    def __init__(self, identity: StoreIdentity | None = None, store_name: str = "") -> None:
        self.identity = identity
        self._store_name, self._is_assumed = store_name, False
        self.before: StoreIdentity | None = None
        self.owner: StoreIdentity | None = None
        self.foreign_messages = 0
        self._logged: set[str] = set()

    @property
    def is_ours(self) -> bool:
        """Whether the keys may be used, as far as is known."""
        return self.identity is not None and self.owner is None

    @property
    def store(self) -> tuple[str, str]:
        """Id and name of this process's store, as scripts take them."""
        return (self.identity.id, self.identity.name) if self.identity is not None else ("", "")

    def assume(self, identity: StoreIdentity) -> None:
        """Belong to this store until the store itself can be read."""
        if self.identity is None:
            self.identity, self._is_assumed = identity, True

    def assume_owner(self, text: bytes | str | None) -> None:
        """Assume the owner's identity where its store has the scheme and the database of this one's URL.

        Otherwise a replica that starts while its store is away could not answer from the cache.
        """
        store_id, _, name = _decoded(text).partition(" ")
        if name and _database(name) == _database(self._store_name) is not None:
            self.assume(StoreIdentity(store_id, name))

    def become(self, identity: StoreIdentity) -> tuple[StoreIdentity | None, bool]:
        """Belong to this store from now on.

        Return its identity before, where it was given a new one; and whether what was read until now is this store's.
        """
        before, self.identity = self.identity, identity
        was_assumed, self._is_assumed = self._is_assumed, False
        if before is None or before.id == identity.id:
            return None, True
        if was_assumed:
            return None, False
        self.before, self.owner = before, None
        return before, True

    def is_refused(self, error: str) -> bool:
        """Whether a script failed because another store owns the keys; it is then noted as their owner."""
        found = _REFUSED.findall(error)
        if found:
            self._note_owner(*found[-1])
        return bool(found)

    def note_owner(self, text: bytes | str | None) -> None:
        """Note what the owner's key holds now."""
        store_id, _, name = _decoded(text).partition(" ")
        if not name or (self.identity is not None and store_id == self.identity.id):
            self.owner = None
            log.info("cache_available", detail="No other store uses the shared cache under this prefix any more.")
        else:
            self._note_owner(store_id, name)

    def note_foreign(self, sender: StoreIdentity) -> None:
        """Count a message of another store; the first one of each is logged."""
        self.foreign_messages += 1
        if sender.id in self._logged or len(self._logged) >= MAX_LOGGED:
            return
        self._logged.add(sender.id)
        names = {"store": str(self.identity), "sender": str(sender)}
        if self.before is not None and sender.id == self.before.id:  # Its last messages come after its resync.
            log.info("foreign_store_message_ignored", **names, detail=_OF_BEFORE)
        else:
            log.warning("foreign_store_message_ignored", **names, detail=_OF_ANOTHER)

    def problems(self) -> Sequence[Problem]:
        """Return the problem of keys that another store owns."""
        if self.identity is None:
            detail = "the shared cache is not used, because it is not known which store this is"
            cure = "check that the store can be reached; for one that refuses writes set FLAGSVC_STORE_NAME"
            return (Problem("store_without_identity", detail, cure),)
        if self.owner is None:
            return ()
        detail = f"the shared cache belongs to another store, {self.owner}; this one is {self.identity}"
        return (Problem("cache_of_another_store", detail, OTHER_PREFIX),)

    def _note_owner(self, store_id: str, name: str) -> None:
        owner = StoreIdentity(_UNPRINTABLE.sub("?", store_id)[:MAX_NAME], _UNPRINTABLE.sub("?", name)[:MAX_NAME])
        if self.owner is None or self.owner.id != store_id:
            log.warning(
                "cache_of_another_store",
                store=str(self.identity),
                owner=str(owner),
                detail=f"The shared cache is not used. Do this: {OTHER_PREFIX}.",
            )
        self.owner = owner


def _decoded(text: bytes | str | None) -> str:
    return text.decode(errors="replace") if isinstance(text, bytes) else text or ""


def _database(name: str) -> tuple[str, str] | None:
    """Return a store's scheme and database; None where its name has no database. Replicas may name other hosts."""
    scheme, _, rest = name.partition("://")
    database = rest.partition("/")[2]
    return (scheme, database) if database else None
