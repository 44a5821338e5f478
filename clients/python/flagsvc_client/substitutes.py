"""What answers in place of the server and of local copies, in tests. `flagsvc_client.testing` fills it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from flagsvc_client.details import Context, EvaluationDetails


class Substitute(Protocol):
    """Flags that take the place of the server's."""

    def details(self, key: str, context: Context, default: Any, min_revision: int = 0) -> EvaluationDetails[Any] | None:
        """Evaluate; None if it has nothing to say of this flag. Raises FlagServiceError for an invalid context."""

    def keys(self) -> Iterable[str] | None:
        """The keys of the whole set; None if it replaces single flags only."""


SUBSTITUTES: list[Substitute] = []
"""For all clients of this process; the last one is asked first."""


def substituted(key: str, context: Context, default: Any) -> EvaluationDetails[Any] | None:
    """Evaluate a flag with the first substitute that has it; None if none has."""
    for substitute in reversed(SUBSTITUTES):
        if (found := substitute.details(key, context, default)) is not None:
            return found
    return None


def substituted_keys() -> Iterable[str] | None:
    """Return the keys of the set that takes the server's place; None if there is none."""
    for substitute in reversed(SUBSTITUTES):
        if (keys := substitute.keys()) is not None:
            return keys
    return None


class StrictError(AssertionError):
    """In strict mode: code asked for a flag that does not exist, or in a way that cannot be right.

    Guards let it through, because it is a defect of the code under test. OpenFeature's SDK catches everything.
    """
