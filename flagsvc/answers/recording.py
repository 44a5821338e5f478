"""What an answer is made of, noted while it is made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from flagsvc.api.common.bulk import BulkCall
from flagsvc.api.common.replies import Reply
from flagsvc.core.evaluation import ErrorCode, Reason
from flagsvc.core.model import FlagId
from flagsvc.serving.reader import Evaluation
from flagsvc.view.entries import CacheEntry
from flagsvc.view.near_cache import NearCache

OVERHEAD_BYTES = 600
"""Memory of a remembered answer besides its contents and its question."""
PIECE_BYTES = 40
"""Memory of each of its pieces, and of each flag that it counts, besides their contents."""


class Answer:
    """A remembered answer. `number`: that of its flag set, as it was held. `size`: about how much memory it takes.

    `absent`: what was held of the flags that do not exist; they are not in the set's listing.
    `reasons` and `labels`: what each use of it counts as.
    """

    __slots__ = ("absent", "labels", "number", "pieces", "reasons", "size")

    def __init__(
        self,
        number: int,
        pieces: list[bytes],
        absent: dict[FlagId, CacheEntry | None],
        reasons: Counter[tuple[Reason, ErrorCode | None]],
        labels: tuple[FlagId, ...],
    ) -> None:
        self.number, self.pieces, self.absent = number, pieces, absent
        self.reasons, self.labels = reasons, labels
        contents = sum(map(len, pieces)) + PIECE_BYTES * (len(pieces) + len(labels) + len(absent))
        self.size = OVERHEAD_BYTES + contents


class Recording:
    """Notes the evaluations of one call, which began while its flag set had this number.

    `counts`: whether its answer is made of nothing but definitions as they are held, and of the question.
    """

    def __init__(self, near: NearCache, number: int, label_of: Callable[[FlagId], FlagId]) -> None:
        self._near, self._number, self._label_of = near, number, label_of
        self._replies: list[Reply] = []
        self._absent: dict[FlagId, CacheEntry | None] = {}
        self._reasons: Counter[tuple[Reason, ErrorCode | None]] = Counter()
        self._labels: list[FlagId] = []
        self.counts = True

    def note(self, evaluation: Evaluation, reply: Reply | None) -> None:
        """Note an evaluation, and as what it was packed."""
        outcome, flag_id = evaluation.outcome, evaluation.flag_id
        if not self.counts or outcome.over_budget or not self._is_of_what_is_held(evaluation):
            self.counts = False
            return
        if reply is not None:
            self._replies.append(reply)
        self._reasons[outcome.reason, outcome.error_code] += 1
        if evaluation.flag is not None:
            self._labels.append(self._label_of(flag_id))

    def answer(self, call: BulkCall, parts: list[bytes]) -> Answer:
        """Return the answer, to be remembered. `parts`: the pieces that are sent this time."""
        ageless, separator = call.packing.ageless, call.packing.separator
        pieces = ageless(self._replies) if ageless is not None else [separator.join(parts)]
        return Answer(self._number, pieces, self._absent, self._reasons, tuple(self._labels))

    def _is_of_what_is_held(self, evaluation: Evaluation) -> bool:
        """Whether it depends on the context and on held entries of the set alone: not stale, and reads no clock."""
        held = self._near.peek(evaluation.flag_id)
        if evaluation.flag is None:
            self._absent[evaluation.flag_id] = held
            revision = held.entry.revision if held is not None else 0
            return evaluation.replies is not None and evaluation.revision == revision
        if held is None or held.replies_of(evaluation.outcome.failed_prerequisite) is not evaluation.replies:
            return False
        # A flag with prerequisites has replies only where none of the set's flags that it depends on reads the clock.
        return held.dependent is not None or not held.prepared.reads_clock
