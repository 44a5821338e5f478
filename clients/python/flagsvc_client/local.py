"""A flag set that this process holds, and evaluation of it with the server's own engine, without asking anybody.

Reads take no lock: what is held of a flag is replaced, never changed.
"""

from __future__ import annotations

import copy
import math
import threading
import time
from collections.abc import Callable, Iterable
from types import MappingProxyType
from typing import Any, TypeVar

from flagsvc_client._engine import evaluation as engine
from flagsvc_client._engine.model import Flag, Status
from flagsvc_client.contexts import fields_of
from flagsvc_client.details import (
    NOTHING,
    Context,
    ErrorCode,
    EvaluationDetails,
    Reason,
    Source,
)

T = TypeVar("T")
TOMBSTONES = 10_000
"""Deleted flags that are remembered: a server that is behind must not bring them back."""
_TYPES = {
    bool: engine.ValueType.BOOLEAN,
    str: engine.ValueType.STRING,
    int: engine.ValueType.INTEGER,
    float: engine.ValueType.FLOAT,
    dict: engine.ValueType.OBJECT,
}
_MUTABLE = (dict, list)
"""A caller may change what it was given, not what is held."""
_REASONS = {reason: Reason(reason.value) for reason in engine.Reason}
_CODES = {code: ErrorCode(code.value) for code in engine.ErrorCode}


class _Held:
    """One flag, prepared when it is first asked for. `flag` None: it was deleted."""

    __slots__ = ("_prepared", "flag", "metadata", "on", "revision", "status")

    def __init__(self, flag: Flag | None, revision: int) -> None:
        self.flag, self.revision = flag, revision
        self.on = flag is not None and flag.status is Status.ENABLED
        self.status = flag.status.value if flag is not None else ""
        self.metadata = MappingProxyType(flag.metadata) if flag is not None and flag.metadata else NOTHING
        self._prepared: engine.Prepared | None = None if flag is not None else engine.NO_FLAG

    @property
    def prepared(self) -> engine.Prepared:
        """The definition, compiled."""
        prepared = self._prepared
        if prepared is None and self.flag is not None:
            prepared = self._prepared = engine.prepare(self.flag)
        return prepared or engine.NO_FLAG


_UNKNOWN = _Held(None, 0)


class LocalFlags:
    """One flag set. `staleness_bound_s`: seconds without a word of the server after which answers are STALE."""

    def __init__(
        self,
        staleness_bound_s: float,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.staleness_bound_s = staleness_bound_s
        self._clock, self._wall_clock = clock, wall_clock
        self._held: dict[str, _Held] = {}
        self._gone: dict[str, None] = {}
        self._writing = threading.Lock()
        self.heard_at = -math.inf
        self.watermark = 0
        """Every change of the set up to this revision is held."""
        self.complete = False
        self.source = Source.LOCAL

    @property
    def age_s(self) -> float:
        """Seconds since the server was heard."""
        return self._clock() - self.heard_at

    def flags(self) -> list[Flag]:
        """Give all flags that are held."""
        return [held.flag for held in self._held.values() if held.flag is not None]

    def keys(self) -> list[str]:
        """Name all flags that are held."""
        return [key for key, held in self._held.items() if held.flag is not None]

    def heard(self) -> None:
        """Note that the server said that nothing changed."""
        self.heard_at = self._clock()

    def restore(self, flags: Iterable[Flag], watermark: int, age_s: float) -> None:
        """Hold what a snapshot file has until the server is heard."""
        with self._writing:
            if self.complete:
                return
            self._held = {flag.key: _Held(flag, flag.revision) for flag in flags}
            self.watermark, self.source = watermark, Source.SNAPSHOT
            self.heard_at = self._clock() - max(age_s, 0.0)
            self.complete = True

    def replace(self, flags: Iterable[Flag], watermark: int) -> frozenset[str]:
        """Take a whole set as it was at a revision; gives the keys of what changed.

        What is held of a later revision stays: the server that told this is behind the one that told that. What a
        snapshot file had does not: the store may have been put back since.
        """
        with self._writing:
            if self.source is Source.SNAPSHOT:
                self._held = {key: _Held(held.flag, 0) for key, held in self._held.items()}
                self.watermark = 0
            known = self.watermark if watermark < self.watermark else 0
            told = {flag.key: flag for flag in flags if flag.key in self._held or not 0 < flag.revision <= known}
            changed = {key for key, flag in told.items() if self._take(key, flag, flag.revision)}
            gone = [
                k for k, h in self._held.items() if k not in told and h.flag is not None and h.revision <= watermark
            ]
            changed.update(key for key in gone if self._take(key, None, watermark))
            self._told(watermark)
            self.complete = True
        return frozenset(changed)

    def change(self, key: str, flag: Flag | None, revision: int, watermark: int = 0) -> frozenset[str]:
        """Take one change unless something newer is held; gives the key if it changed anything."""
        with self._writing:
            past = key not in self._held and 0 < revision <= self.watermark  # it was deleted since
            changed = not past and self._take(key, flag, revision)
            if watermark:
                self._told(watermark)
        return frozenset((key,) if changed else ())

    def details(self, key: str, context: Context, default: T, least: int = 0) -> EvaluationDetails[T] | None:
        """Evaluate; None where this process may not have the revision `least` yet, so that the server must be asked.

        `default` None: a value of any type. Raises FlagServiceError for a context that is none.
        """
        held = self._held.get(key, _UNKNOWN)
        if least > self.watermark and least > held.revision:
            return None
        fields = fields_of(context)
        prepared = held.prepared
        outcome = prepared.fixed or prepared.evaluate(fields, self._wall_clock())
        if default is not None:
            outcome = engine.check_type(outcome, _TYPES.get(default.__class__, engine.ValueType.OBJECT))
        age_s = self._clock() - self.heard_at
        if outcome.error_code is not None:
            return self._failed(key, default, held, outcome, age_s)
        value: Any = outcome.value
        variant = outcome.variant
        if value.__class__ in _MUTABLE:
            value = copy.deepcopy(value)
        return EvaluationDetails(
            key,
            value if variant is not None else default,
            variant,
            Reason.STALE if age_s > self.staleness_bound_s else _REASONS[outcome.reason],
            None,
            "",
            held.metadata,
            held.revision,
            self.source,
            int(age_s * 1000),
            held.status,
            held.on and value is True,
        )

    def _failed(self, key: str, default: T, held: _Held, outcome: engine.Outcome, age_s: float) -> EvaluationDetails[T]:
        """Let the default stand."""
        code, message = outcome.error_code, outcome.message
        if not self.complete:
            code, message, age_s = engine.NOT_READY.error_code, "The server was not heard yet", 0.0
        return EvaluationDetails(
            key,
            default,
            None,
            Reason.ERROR,
            _CODES[code or engine.ErrorCode.GENERAL],
            message,
            held.metadata,
            held.revision if held.flag is not None else 0,
            self.source if self.complete else Source.NONE,
            int(age_s * 1000),
            held.status,
        )

    def _take(self, key: str, flag: Flag | None, revision: int) -> bool:
        held = self._held.get(key)
        if held is not None and (revision < held.revision or (revision == held.revision and flag == held.flag)):
            return False
        if held is None and flag is None:
            return False
        self._held[key] = _Held(flag, revision)
        self._gone.pop(key, None)
        if flag is None:
            self._gone[key] = None
            if len(self._gone) > TOMBSTONES:
                oldest = next(iter(self._gone))
                del self._gone[oldest], self._held[oldest]
        return True

    def _told(self, watermark: int) -> None:
        self.watermark, self.source = max(self.watermark, watermark), Source.LOCAL
        self.heard_at = self._clock()
