"""Answers calls about many flags from memory where the same was asked before, and nothing of it has changed since.

An answer counts only while its flag set is the very one that was evaluated, entry by entry, and while the near cache
may be answered from at all. So it is what an evaluation would give at this moment; see docs/adr/0022.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from flagsvc.answers.held_sets import HeldSets
from flagsvc.answers.recording import Answer, Recording
from flagsvc.api.common.bulk import Asked, BulkCall, EvaluatedBulk
from flagsvc.telemetry import Metrics, Sample
from flagsvc.view.near_cache import NearCache

MAX_QUESTION_BYTES = 65_536
"""Size of a request whose answer is remembered."""
MAX_ANSWER_BYTES = 1_048_576
"""Size of an answer that is remembered: it is put together on the event loop."""
MAX_ASKED_ONCE = 20_000
"""Questions of which it is noted that they were asked: an answer is remembered when it is asked for again."""


class Answers:
    """The remembered answers of one replica, of about `max_bytes` of memory. With 0 nothing is remembered."""

    def __init__(self, bulk: EvaluatedBulk, near: NearCache, metrics: Metrics, max_bytes: int) -> None:
        self._bulk, self._near, self._metrics, self._max_bytes = bulk, near, metrics, max_bytes
        self._sets = HeldSets(near)
        self._answers: OrderedDict[Asked, Answer] = OrderedDict()
        self._asked_once: dict[int, None] = {}
        self._bytes = self._hits = self._misses = 0

    async def parts(self, call: BulkCall) -> list[bytes]:
        """Return the pieces of an answer's evaluations. Raises what evaluating raises."""
        if not self._max_bytes or len(call.asked.request) > MAX_QUESTION_BYTES:
            return await self._bulk.parts(call)
        number = self._sets.number_of(call.asked.flag_set, call.min_revision)
        answer = self._answers.get(call.asked)
        if answer is not None and answer.number == number and self._still_absent(answer):
            return self._again(call, answer)
        self._misses += 1
        if number is None or (answer is None and not self._was_asked(call.asked)):
            return await self._bulk.parts(call)
        recording = Recording(self._near, number, self._metrics.label_of)
        parts = await self._bulk.parts(call, recording.note)
        # An answer of a set that has changed meanwhile, in the turns of the evaluation, would never be given.
        if recording.counts and self._sets.number_of(call.asked.flag_set) == number:
            self._remember(call.asked, recording.answer(call, parts))
        return parts

    def samples(self) -> Iterator[Sample]:
        """Yield the counts for Prometheus."""
        about = "Calls about many flags, by whether their answer was remembered: hit or miss."
        yield Sample("flagsvc_answer_cache_calls_total", about, self._hits, {"result": "hit"})
        yield Sample("flagsvc_answer_cache_calls_total", about, self._misses, {"result": "miss"})
        asked = self._hits + self._misses
        about = "Share of these calls whose answer was remembered."
        yield Sample("flagsvc_answer_cache_hit_ratio", about, self._hits / asked if asked else 0.0)
        yield Sample("flagsvc_answer_cache_bytes", "Memory of the remembered answers, as estimated.", self._bytes)
        yield Sample("flagsvc_answer_cache_entries", "Remembered answers.", len(self._answers))

    def _again(self, call: BulkCall, answer: Answer) -> list[bytes]:
        """Answer from memory. Its evaluations count as if each was made again."""
        self._hits += 1
        self._answers.move_to_end(call.asked)
        self._metrics.evaluated_again(answer.reasons, answer.labels)
        age_between = call.packing.age_between
        parts = answer.pieces if age_between is None else [age_between(self._sets.age_s()).join(answer.pieces)]
        call.size.add(sum(map(len, parts)))
        return parts

    def _still_absent(self, answer: Answer) -> bool:
        return all(self._near.peek(flag_id) is held for flag_id, held in answer.absent.items())

    def _was_asked(self, asked: Asked) -> bool:
        """Whether this was asked before. Most contexts never come back, and need not be remembered."""
        number = hash(asked)
        if number in self._asked_once:
            del self._asked_once[number]
            return True
        self._asked_once[number] = None
        if len(self._asked_once) > MAX_ASKED_ONCE:
            del self._asked_once[next(iter(self._asked_once))]
        return False

    def _remember(self, asked: Asked, answer: Answer) -> None:
        answer.size += sum(map(len, (asked.flag_set, asked.selector, asked.request, asked.added)))
        if answer.size > min(MAX_ANSWER_BYTES, self._max_bytes):
            return
        if (old := self._answers.pop(asked, None)) is not None:
            self._bytes -= old.size
        self._answers[asked] = answer
        self._bytes += answer.size
        while self._bytes > self._max_bytes:
            _, oldest = self._answers.popitem(last=False)
            self._bytes -= oldest.size
