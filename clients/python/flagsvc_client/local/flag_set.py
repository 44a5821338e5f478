"""The local copy of a flag set, evaluated with the server's own engine.

Reads take no lock: the entry of a flag is replaced, never changed.
"""

from __future__ import annotations

import copy
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from flagsvc_client._engine import evaluation as engine
from flagsvc_client._engine.family import evaluate_family
from flagsvc_client._engine.model import Flag, Status
from flagsvc_client.details import NOTHING, Context, ErrorCode, EvaluationDetails, Reason, Source
from flagsvc_client.local.settings import EvaluationSettings
from flagsvc_client.wire_contexts import fields_of

T = TypeVar("T")
MAX_TOMBSTONES = 10_000
"""Deleted flags that are remembered, so that a server that is behind does not bring them back."""
_TYPES = {
    bool: engine.ValueType.BOOLEAN,
    str: engine.ValueType.STRING,
    int: engine.ValueType.INTEGER,
    float: engine.ValueType.FLOAT,
    dict: engine.ValueType.OBJECT,
}
_MUTABLE = (dict, list)
"""Values of these types are copied for the caller, who may change them."""
_REASONS = {reason: Reason(reason.value) for reason in engine.Reason}
_ERROR_CODES = {code: ErrorCode(code.value) for code in engine.ErrorCode}


class _Entry:
    """One flag, compiled when it is first evaluated. `flag` is None if it was deleted."""

    __slots__ = ("_prepared", "flag", "metadata", "on", "revision", "status")

    def __init__(self, flag: Flag | None, revision: int) -> None:
        self.flag, self.revision = flag, revision
        self.on = flag is not None and flag.status is Status.ENABLED
        self.status = flag.status.value if flag is not None else ""
        self.metadata = MappingProxyType(flag.metadata) if flag is not None and flag.metadata else NOTHING
        self._prepared: engine.Prepared | None = None if flag is not None else engine.NO_FLAG

    @property
    def prepared(self) -> engine.Prepared:
        """The compiled definition."""
        prepared = self._prepared
        if prepared is None and self.flag is not None:
            prepared = self._prepared = engine.prepare(self.flag)
        return prepared or engine.NO_FLAG


_UNKNOWN = _Entry(None, 0)


class LocalFlagSet:
    """One flag set. `staleness_bound_s`: seconds without a message from the server after which answers are STALE."""

    def __init__(
        self,
        staleness_bound_s: float,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.staleness_bound_s = staleness_bound_s
        self._clock, self._wall_clock = clock, wall_clock
        self._entries: dict[str, _Entry] = {}
        self._tombstones: dict[str, None] = {}
        """Keys of deleted flags, oldest first."""
        self._write_lock = threading.Lock()
        self._confirmed_at = -math.inf
        self.settings = EvaluationSettings()
        """What decides evaluations on the server besides the flags, as it last said."""
        self.watermark = 0
        """The copy includes every change of the set up to this revision."""
        self.complete = False
        self.source = Source.LOCAL

    @property
    def age_s(self) -> float:
        """Seconds since the server last confirmed the copy."""
        return self._clock() - self._confirmed_at

    def definitions(self) -> list[Flag]:
        """All flags."""
        return [entry.flag for entry in self._entries.values() if entry.flag is not None]

    def keys(self) -> list[str]:
        """The keys of all flags."""
        return [key for key, entry in self._entries.items() if entry.flag is not None]

    def confirm(self) -> None:
        """Note that the server just confirmed the copy: everything that it sent has been applied."""
        self._confirmed_at = self._clock()

    def restore(self, flags: Iterable[Flag], watermark: int, age_s: float, settings: EvaluationSettings) -> None:
        """Load the content of a snapshot file, unless the server has already sent the set."""
        with self._write_lock:
            if self.complete:
                return
            self._entries = {flag.key: _Entry(flag, flag.revision) for flag in flags}
            self.watermark, self.source, self.settings = watermark, Source.SNAPSHOT, settings
            self._confirmed_at = self._clock() - max(age_s, 0.0)
            self.complete = True

    def replace(self, flags: Iterable[Flag], watermark: int) -> frozenset[str]:
        """Apply the whole set as it was at a revision; returns the keys of the flags that changed.

        Flags of a later revision stay: the server that sent this set is behind the one that sent them. Flags from a
        snapshot file do not stay, for the store may have been restored from a backup since.
        """
        with self._write_lock:
            if self.source is Source.SNAPSHOT:
                self._entries = {key: _Entry(entry.flag, 0) for key, entry in self._entries.items()}
                self.watermark = 0
            known = self.watermark if watermark < self.watermark else 0
            sent = {flag.key: flag for flag in flags if flag.key in self._entries or not 0 < flag.revision <= known}
            changed = {key for key, flag in sent.items() if self._apply(key, flag, flag.revision)}
            gone = [
                key
                for key, entry in self._entries.items()
                if key not in sent and entry.flag is not None and entry.revision <= watermark
            ]
            changed.update(key for key in gone if self._apply(key, None, watermark))
            self._raise_watermark(watermark)
            self.complete = True
        return frozenset(changed)

    def change(self, key: str, flag: Flag | None, revision: int, watermark: int = 0) -> frozenset[str]:
        """Apply one change unless a newer one is known; returns the key if it changed anything."""
        with self._write_lock:
            deleted_since = key not in self._entries and 0 < revision <= self.watermark
            changed = not deleted_since and self._apply(key, flag, revision)
            if watermark:
                self._raise_watermark(watermark)
        return frozenset((key,) if changed else ())

    def details(self, key: str, context: Context, default: T, min_revision: int = 0) -> EvaluationDetails[T] | None:
        """Evaluate; None if the copy may not include `min_revision` yet, so that the server must be asked.

        `default` None: a value of any type. Raises FlagServiceError for an invalid context.
        """
        entry = self._entries.get(key, _UNKNOWN)
        if min_revision > self.watermark and min_revision > entry.revision:
            return None
        settings = self.settings
        fields = fields_of(context, settings.limits)
        if settings.context_values:
            fields = {**fields, **settings.context_values}  # the server's override the caller's
        prepared = entry.prepared
        if prepared.prerequisites:
            if min_revision > self.watermark:
                return None
            outcome = self._family_outcome(key, fields)
        else:
            outcome = prepared.fixed or prepared.evaluate(fields, self._wall_clock())
        if default is not None:
            outcome = engine.check_type(outcome, _TYPES.get(default.__class__, engine.ValueType.OBJECT))
        age_s = self._clock() - self._confirmed_at
        if outcome.error_code is not None:
            return self._error_details(key, default, entry, outcome, age_s)
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
            entry.metadata,
            entry.revision,
            self.source,
            int(age_s * 1000),
            entry.status,
            entry.on and value is True,
        )

    def _family_outcome(self, key: str, fields: Mapping[str, Any]) -> engine.Outcome:
        """Evaluate a flag with those that it depends on, as of one moment: no change is applied meanwhile."""
        with self._write_lock:
            entries = self._entries
            now = self._wall_clock()
            return evaluate_family(key, lambda each: entries.get(each, _UNKNOWN).prepared, fields, now)

    def _error_details(
        self, key: str, default: T, entry: _Entry, outcome: engine.Outcome, age_s: float
    ) -> EvaluationDetails[T]:
        """Return the default and the error; PROVIDER_NOT_READY until the server or a file has supplied the set."""
        code, message = outcome.error_code, outcome.message
        if not self.complete:
            code, message, age_s = engine.NOT_READY.error_code, "No flags received from the server yet", 0.0
        return EvaluationDetails(
            key,
            default,
            None,
            Reason.ERROR,
            _ERROR_CODES[code or engine.ErrorCode.GENERAL],
            message,
            entry.metadata,
            entry.revision if entry.flag is not None else 0,
            self.source if self.complete else Source.NONE,
            int(age_s * 1000),
            entry.status,
        )

    def _apply(self, key: str, flag: Flag | None, revision: int) -> bool:
        entry = self._entries.get(key)
        if entry is not None and (revision < entry.revision or (revision == entry.revision and flag == entry.flag)):
            return False
        if entry is None and flag is None:
            return False
        self._entries[key] = _Entry(flag, revision)
        self._tombstones.pop(key, None)
        if flag is None:
            self._tombstones[key] = None
            if len(self._tombstones) > MAX_TOMBSTONES:
                oldest = next(iter(self._tombstones))
                del self._tombstones[oldest], self._entries[oldest]
        return True

    def _raise_watermark(self, watermark: int) -> None:
        self.watermark, self.source = max(self.watermark, watermark), Source.LOCAL
        self._confirmed_at = self._clock()
