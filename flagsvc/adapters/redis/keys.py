"""The names of a deployment's keys and of its channel in Redis. Knows no client.

Deployments are kept apart by a prefix, by the database number, or by both. Redis keeps the keys of its databases apart,
but not their channels, so the number is a part of the channel's name.
"""

from __future__ import annotations

from urllib.parse import quote, unquote

from flagsvc.core.model import DEFAULT_SET, FlagId

NO_FLAG = FlagId(DEFAULT_SET, "")
"""Its entry is what a probe writes and removes: no flag has an empty key."""


class Keys:
    """The names under one prefix, which may be empty, in one database."""

    def __init__(self, prefix: str = "", database: int = 0) -> None:
        self._start = f"{prefix}:" if prefix else ""
        self.channel = f"{self._start}flagsvc:changes" + (f"@{database}" if database else "")
        self.owner = f"{self._start}flagsvc:store"
        """Names the store to which all of these keys belong."""
        self.lease = f"{self._start}flagsvc:cache-lease"
        self.heartbeats = (f"{self._start}flagsvc:replicas", f"{self._start}flagsvc:heartbeats")
        self.entry_pattern = f"{self._start}feature-flag[:@]*"

    def entry(self, flag_id: FlagId) -> str:
        """Return an entry's key: `feature-flag:{key}` in the default set, `feature-flag@{set}:{key}` in others."""
        return f"{self._start}feature-flag{_suffix(flag_id)}"

    def fill(self, flag_id: FlagId) -> str:
        """Return the key that one caller of all replicas holds while it fills this entry."""
        return f"{self._start}feature-flag-fill{_suffix(flag_id)}"

    def limit(self, name: str) -> str:
        """Return the key with what one caller has used of a rate limit."""
        return f"{self._start}flagsvc:limit:{name}"

    def probed(self) -> tuple[str, ...]:
        """Return the keys that a probe tries: an entry that no flag has, and one of each other kind."""
        return (self.entry(NO_FLAG), self.fill(NO_FLAG), self.lease, *self.heartbeats, self.owner)

    def flag_id_at(self, key: bytes) -> FlagId | None:
        """Return the flag whose entry has this key; None when the key is not one of these."""
        try:
            before, _, name = key.decode().removeprefix(self._start).partition(":")
        except UnicodeDecodeError:
            return None
        flag_set = unquote(before.removeprefix("feature-flag").removeprefix("@")) or DEFAULT_SET
        flag_id = FlagId(flag_set, name)
        return flag_id if self.entry(flag_id).encode() == key else None


def _suffix(flag_id: FlagId) -> str:
    if flag_id.flag_set == DEFAULT_SET:
        return f":{flag_id.key}"
    return f"@{quote(flag_id.flag_set, safe='')}:{flag_id.key}"
