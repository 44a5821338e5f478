"""A flag set in memory, evaluated with the server's engine and changed by tests and by clients."""

from __future__ import annotations

import difflib
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from flagsvc_client._engine.model import DEFAULT_SET, Flag
from flagsvc_client.details import Context, ErrorCode, EvaluationDetails, JsonValue
from flagsvc_client.local.flag_set import LocalFlagSet
from flagsvc_client.substitutes import StrictError
from flagsvc_client.testing.sources import Source, flag_of_value, flags_of
from flagsvc_client.watch_events import Change

T = TypeVar("T")
Listener = Callable[[Change], None]


class InMemoryFlags:
    """The flags of a test. `strict`: an evaluation that fails raises StrictError, and is kept in `strict_errors`.

    Code under test may catch that; a test can check `strict_errors` at its end, as the fixture `flagsvc_flags` does.
    """

    def __init__(self, source: Source = (), *, flag_set: str = DEFAULT_SET, strict: bool = False) -> None:
        self.flag_set = flag_set
        self.strict_errors: list[StrictError] = []
        self.evaluated = _FlagSet(self.strict_errors if strict else None)
        self._listeners: list[Listener] = []
        self._lock = threading.RLock()
        self.load(source)

    def load(self, source: Source) -> None:
        """Replace all flags. Raises as `flags_of` does."""
        flags = [replace(flag, flag_set=self.flag_set) for flag in flags_of(source, self.flag_set)]
        with self._lock:
            for key in set(self.keys()).difference(flag.key for flag in flags):
                self.put(key, None)
            for flag in flags:
                self.put(flag.key, flag)
            self.evaluated.complete = True

    def set(self, key: str, value: JsonValue | Flag) -> None:
        """Give a flag this value for everybody; see `flag_of_value`."""
        self.put(key, flag_of_value(key, value, self.flag_set))

    def remove(self, key: str) -> None:
        """Remove a flag."""
        self.put(key, None)

    @contextmanager
    def override(self, key: str, value: JsonValue | Flag) -> Iterator[None]:
        """Give a flag this value inside the block."""
        before = self.flag(key)
        self.set(key, value)
        try:
            yield
        finally:
            self.put(key, before)

    def flag(self, key: str) -> Flag | None:
        """Return a definition; None if there is none."""
        return next((flag for flag in self.evaluated.definitions() if flag.key == key), None)

    def flags(self) -> list[Flag]:
        """Return all definitions."""
        return self.evaluated.definitions()

    def keys(self) -> list[str]:
        """Return the keys of all flags."""
        return self.evaluated.keys()

    def details(self, key: str, context: Context, default: T, min_revision: int = 0) -> EvaluationDetails[T]:
        """Evaluate. Raises FlagServiceError for an invalid context, and StrictError in strict mode."""
        return self.evaluated.details(key, context, default, min_revision)

    def put(self, key: str, flag: Flag | None) -> Change:
        """Store a definition under the next revision, or delete it, and inform all watches."""
        with self._lock:
            revision = self.evaluated.watermark + 1
            stored = replace(flag, revision=revision) if flag is not None else None
            self.evaluated.change(key, stored, revision, revision)
            change = Change(key, stored, revision)
            for listener in tuple(self._listeners):
                listener(change)
        return change

    def change(self, key: str, decide: Callable[[Flag | None], Flag | None]) -> Change:
        """Store what a function makes of the definition; nothing else changes it meanwhile."""
        with self._lock:
            return self.put(key, decide(self.flag(key)))

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call a function for every change; returns a function that removes it."""
        with self._lock:
            self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)


class _FlagSet(LocalFlagSet):
    """Never stale. With a list of errors, evaluations that fail are raised and added to it."""

    def __init__(self, errors: list[StrictError] | None) -> None:
        super().__init__(staleness_bound_s=math.inf)
        self._errors = errors
        self.confirm()

    def details(self, key: str, context: Context, default: T, min_revision: int = 0) -> EvaluationDetails[T]:  # noqa: ARG002
        found: Any = super().details(key, context, default)
        if self._errors is not None and found.error_code is not None:
            error = StrictError(self._words(found))
            self._errors.append(error)
            raise error
        return found  # type: ignore[no-any-return]

    def _words(self, found: EvaluationDetails[Any]) -> str:
        text = f"flag {found.flag_key!r} cannot be evaluated: {found.error_code}"
        if found.error_message:
            text += f", {found.error_message}"
        if found.error_code is ErrorCode.FLAG_NOT_FOUND:
            similar = difflib.get_close_matches(found.flag_key, self.keys(), 1)
            text += f"; did you mean {similar[0]!r}?" if similar else f"; the flags are {sorted(self.keys())}"
        return text
