"""Evaluates flags in a second thread, from what the near cache publishes, and counts them for itself."""

from __future__ import annotations

import time
from collections.abc import Callable

from flagsvc.core.evaluation import ValueType, check_type
from flagsvc.core.model import Attributes, FlagId
from flagsvc.serving.lookup import LookupStats
from flagsvc.serving.reader import Evaluation
from flagsvc.view.entries import Source
from flagsvc.view.published import Publisher, read


class SecondReader:
    """What the reader does at once, for another thread than the event loop's.

    `evaluated` counts an evaluation that is answered.
    """

    def __init__(
        self, view: Publisher, evaluated: Callable[[Evaluation], None], clock: Callable[[], float] = time.time
    ) -> None:
        self._view, self._evaluated, self._clock = view, evaluated, clock
        self.stats = LookupStats()

    def evaluate(
        self, flag_id: FlagId, context: Attributes, wanted: ValueType | None, min_revision: int
    ) -> Evaluation | None:
        """Evaluate one flag; None for errors, unknown flags, and whatever else the event loop has to answer."""
        now = time.monotonic()
        seen = read(self._view, flag_id, now, min_revision)
        if seen is None or (held := seen.held) is None or (prepared := held.compiled) is None:
            return None
        outcome = prepared.fixed or prepared.evaluate(context, self._clock())
        if wanted is not None:
            outcome = check_type(outcome, wanted)
        if outcome.error_code is not None:
            return None
        entry = held.entry
        return Evaluation(
            flag_id, outcome, entry.flag, entry.revision, Source.NEAR, now - seen.verified_at, held.replies
        )

    def evaluated(self, evaluation: Evaluation) -> None:
        """Count an evaluation that is answered."""
        self.stats.near += 1
        self._evaluated(evaluation)
