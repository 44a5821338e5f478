"""Scopes: the flag sets that a caller may use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from flagsvc.core.errors import invalid
from flagsvc.core.validation import key_problem

ALL = "*"
MAX_PATTERNS = 100


@dataclass(frozen=True, slots=True)
class Scope:
    """Flag sets by name or by prefix. `patterns`: as they were given, such as `default` and `team-*`."""

    patterns: tuple[str, ...]
    names: frozenset[str]
    prefixes: tuple[str, ...]

    def covers(self, flag_set: str) -> bool:
        """Whether the flag set belongs to the scope. It need not exist."""
        return flag_set in self.names or flag_set.startswith(self.prefixes)

    @property
    def is_all(self) -> bool:
        """Whether every flag set belongs to the scope."""
        return "" in self.prefixes

    def includes(self, other: Scope) -> bool:
        """Whether every flag set of the other scope surely belongs to this one."""
        return all(map(self.covers, other.names)) and all(each.startswith(self.prefixes) for each in other.prefixes)


def scope_of(patterns: Iterable[str], field: str = "flag_sets") -> Scope:
    """Return the scope of some patterns: each a flag set's name, a prefix with `*` after it, or `*` for all sets.

    Raises InvalidRequest, which names the field.
    """
    given = tuple(patterns)
    if not 0 < len(given) <= MAX_PATTERNS:
        raise invalid(field, f"{len(given)} entries", f"1 to {MAX_PATTERNS} flag sets; * for all")
    for pattern in given:
        problem = "a * stands at the end only" if ALL in pattern[:-1] else key_problem(pattern)
        if pattern != ALL and problem:
            raise invalid(field, pattern, f"a flag set, a prefix such as team-*, or *: {problem}")
    names = frozenset(pattern for pattern in given if not pattern.endswith(ALL))
    return Scope(given, names, tuple(pattern.removesuffix(ALL) for pattern in given if pattern.endswith(ALL)))


def only(flag_set: str) -> Scope:
    """Return the scope of one flag set, whatever its name is: also one that reads as a prefix."""
    return Scope((flag_set,), frozenset({flag_set}), ())


EVERY_SET = scope_of([ALL])
