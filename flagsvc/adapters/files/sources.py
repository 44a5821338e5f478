"""The files that a store URL names."""

from __future__ import annotations


def sources_of(url: str) -> tuple[str, ...]:
    """Return the paths in `file:A.json,B.yaml` as they are given there: flagd's name for them is source."""
    return tuple(dict.fromkeys(part.removeprefix("file://").removeprefix("file:") for part in url.split(",")))
