"""Calls about many flags: each is evaluated and packed, in turns, and what is packed makes up the answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from flagsvc.api.common.answers import AnswerSize, Pieces, is_long_work
from flagsvc.api.common.callers import CALLER
from flagsvc.api.common.replies import Reply, keep, kept
from flagsvc.serving.reader import Evaluation
from flagsvc.turns import off_loop


class Asked(NamedTuple):
    """All that shapes the answer to a call about many flags, besides the flags. Where two are equal, answers are.

    `selector`: as text, for answers that repeat it. `request`: the request's bytes, and so the caller's context.
    `added`: what the server adds to the context, of headers and of what the credential proves.
    `only_public`: the caller sees nothing but public flags.
    """

    method: str
    flag_set: str
    selector: str
    request: bytes
    added: str
    only_public: bool


def asked(method: str, flag_set: str, selector: str, request: bytes, added: str) -> Asked:
    """Return what the caller of the call that runs now has asked."""
    return Asked(method, flag_set, selector, request, added, CALLER.get().is_of_the_public)


@dataclass(frozen=True, slots=True)
class Packing:
    """How a call's evaluations are packed.

    `form`: what a packed evaluation depends on besides the evaluation. `pack`: None leaves the flag out.
    Where answers have ages, in seconds, `with_age` puts one into a packed evaluation; `ageless` makes an answer of
    packed evaluations, in pieces, between which `age_between` stands when it is sent, the same for all of them.
    `separator`: between packed evaluations without ages.
    """

    form: Hashable
    pack: Callable[[Evaluation], Reply | None]
    with_age: Callable[[Reply, float], bytes] | None = None
    ageless: Callable[[list[Reply]], list[bytes]] | None = None
    age_between: Callable[[float], bytes] | None = None
    separator: bytes = b""


Evaluate = Callable[[], Awaitable[AsyncIterator[Evaluation]]]
"""Reads the call's context, and begins to evaluate."""
Note = Callable[[Evaluation, Reply | None], None]
"""Notes what was evaluated, and as what it was packed."""


@dataclass(frozen=True, slots=True)
class BulkCall:
    """A call about many flags. `min_revision`: the answer contains every change up to it."""

    asked: Asked
    evaluate: Evaluate
    packing: Packing
    size: AnswerSize
    min_revision: int = 0


class Bulk(Protocol):
    """Answers calls about many flags."""

    async def parts(self, call: BulkCall) -> list[bytes]:
        """Return the pieces of an answer's evaluations, whose size is counted. Raises what evaluating raises."""
        ...


class EvaluatedBulk:
    """Evaluates every flag of every call. `evaluated` is called with each evaluation."""

    def __init__(self, evaluated: Callable[[Evaluation], None]) -> None:
        self._evaluated = evaluated

    async def parts(self, call: BulkCall, note: Note | None = None) -> list[bytes]:
        """Return the pieces of an answer's evaluations. `note` is called with each of them."""
        packing, size, pieces = call.packing, call.size, Pieces(call.packing.separator)
        form, pack, with_age = packing.form, packing.pack, packing.with_age
        async for evaluation in await call.evaluate():
            self._evaluated(evaluation)
            reply = kept(evaluation, form)
            if reply is None:
                reply = await off_loop(pack, evaluation) if is_long_work(evaluation) else pack(evaluation)
                if reply is not None:
                    keep(evaluation, form, reply)
            if note is not None:
                note(evaluation, reply)
            if reply is not None:
                part = reply[0] if with_age is None else with_age(reply, evaluation.age_s)
                size.add(len(part))
                pieces.add(part)
        return pieces.all()
