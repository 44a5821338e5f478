"""The bucketing of flag sets: which flags have splits, and how each written definition gets its set's version.

A store keeps a version for each set, beside the set's revision counter, and calls `stamped` for every definition to
which it gives a revision. So a definition says by itself how its splits choose, wherever it is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace

from .changes import Author, Decide, restamp
from .errors import invalid
from .model import BUCKETINGS, DEFAULT_BUCKETING, Change, Flag, JsonValue

SPLIT = "fractional"


def checked_bucketing(version: int) -> int:
    """Return a version that exists. Raises InvalidRequest."""
    if version not in BUCKETINGS:
        raise invalid("bucketing", version, f"one of {', '.join(map(str, BUCKETINGS))}")
    return version


def has_split(flag: Flag) -> bool:
    """Whether the flag has a split, as a rollout is. A rule that is not JSON counts as one: it may be corrected."""
    if flag.rollout is not None:
        return True
    return any(_may_split(text) and _splits(text) for text in (flag.targeting or "", *flag.evaluators.values()))


def version_for(flag: Flag, set_version: int) -> int:
    """Return the version that the flag's definition has in a set of this version: one without a split has none."""
    return set_version if has_split(flag) else DEFAULT_BUCKETING


def moving_keys(flags: Iterable[Flag], set_version: int) -> list[str]:
    """Return the keys of the flags whose splits choose otherwise once their set has this version."""
    return [flag.key for flag in flags if flag.bucketing != version_for(flag, set_version)]


def stamped(change: Change, set_version: int) -> Change:
    """Return the change with the set's version in the definition that it stores, and in its history entry if new."""
    after = change.after
    if after is None or after.bucketing == (version := version_for(after, set_version)):
        return change
    previous, new = change.previous, {**(change.new or {}), "bucketing": version}
    if change.before is not None:
        previous = {**(previous or {}), "bucketing": change.before.bucketing}
    return replace(change, after=replace(after, bucketing=version), previous=previous, new=new)


def follow_set(set_version: int, author: Author) -> Decide:
    """Return a decision to store the flag with its set's version; None where it has it, or does not exist."""

    def decide(current: Flag | None) -> Change | None:
        if current is None or current.bucketing == version_for(current, set_version):
            return None
        return restamp(current, author)

    return decide


def _may_split(text: str) -> bool:
    return SPLIT in text or "\\u" in text  # JSON can escape every character of the name


def _splits(text: str) -> bool:
    try:
        pending: list[JsonValue] = [json.loads(text)]
    except (ValueError, RecursionError):
        return True
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            if len(part) == 1 and SPLIT in part:
                return True
            pending += part.values()
        elif isinstance(part, list):
            pending += part
    return False
