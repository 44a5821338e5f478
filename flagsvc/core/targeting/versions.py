"""flagd's sem_ver operator: compares semantic versions (semver.org 2.0.0) as openfeature-flagd-core does."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import semver

from ..model import JsonValue

MAX_LENGTH = 256
Version = tuple[int, int, int, tuple[Any, ...]]


def version(value: JsonValue) -> Version | None:
    """Parse a version into a sortable tuple; None if it is not a version. Build metadata is ignored."""
    text = value if isinstance(value, str) else str(value)
    return _parsed(text) if len(text) <= MAX_LENGTH else None


@lru_cache(maxsize=4_096)
def _parsed(text: str) -> Version | None:
    full = text[1:] if text.startswith(("v", "V")) else text
    core = full.split("-")[0].split("+")[0]
    missing = 2 - core.count(".")
    if missing > 0:
        full = core + ".0" * missing + full[len(core) :]
    try:
        parsed = semver.Version.parse(full)
    except ValueError:
        return None
    if parsed.prerelease is None:
        return parsed.major, parsed.minor, parsed.patch, (1,)
    parts = parsed.prerelease.split(".")
    ranked = tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts)
    return parsed.major, parsed.minor, parsed.patch, (0, ranked)


TESTS: dict[str, Callable[[Version, Version], bool]] = {
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "^": lambda a, b: a[0] == b[0],
    "~": lambda a, b: a[:2] == b[:2],
}
"""The comparisons by name. `^` means the same major version, `~` the same major and minor version."""


def sem_ver(first: JsonValue, name: JsonValue, second: JsonValue) -> bool | None:
    """Compare two versions. None if an argument is not a version, or `name` not a comparison."""
    test = TESTS.get(name) if isinstance(name, str) else None
    a, b = version(first), version(second)
    return None if test is None or a is None or b is None else test(a, b)
