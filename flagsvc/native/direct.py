"""Evaluations that are answered in the front's thread, from the view that the near cache publishes.

Only what memory alone answers, and answers well, is answered here. Everything else is left to the event loop, and to
the same handlers as over any other transport: errors, explanations, answers as of another moment, large contexts and
values, rules that are not compiled yet, and whatever this replica cannot say without asking.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flagsvc.access.authority import Authority
from flagsvc.api.common.answers import is_long_work
from flagsvc.api.common.callers import CALLER, Metadata
from flagsvc.api.common.consistency_tokens import min_revision_of
from flagsvc.api.common.contexts import PROVEN, Contexts, LazyContext
from flagsvc.api.common.gate import Check, check_of
from flagsvc.api.common.listener import Listener
from flagsvc.api.common.permissions import METHODS
from flagsvc.api.common.replies import keep, kept
from flagsvc.api.common.request_limits import MAX_EVALUATION_BYTES
from flagsvc.api.flag_service import messages
from flagsvc.api.flagd.evaluation import PROTOCOLS, TYPES, Protocol, packer, reason_of
from flagsvc.core import validation
from flagsvc.core.access.identity import UNCHECKED, Identity
from flagsvc.core.evaluation import Reason
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.limits.second_thread import SecondThread
from flagsvc.serving.second_reader import SecondReader

EVALUATE = "/flagsvc.v1.FlagService/EvaluateFlag"
RESOLVES = {f"/{protocol.service}/Resolve{name}": (protocol, name) for protocol in PROTOCOLS for name in TYPES}
PATHS = (EVALUATE, *RESOLVES)
"""The direct methods."""
Answer = Callable[[bytes, Metadata, str], bytes | None]
"""Answers a request with its headers and its peer; None if the event loop has to."""
Evaluate = Callable[[bytes, Metadata, Identity], bytes | None]
"""The same, for a caller that is known and may call the method."""
CoveredForAll = Callable[[str], bool]
"""Returns whether every event stream covers a flag set that its caller did not name."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the thread answers with. All of it may be used there.

    `authority`: who recognizes callers; None if they are not authenticated. `limits`: None without rate limits.
    """

    reader: SecondReader
    contexts: Contexts
    listener: Listener
    authority: Authority | None
    limits: SecondThread | None
    covered_for_all: CoveredForAll

    def check(self, path: str) -> Check | None:
        """Return a method's check of its callers: its own, since a check keeps its decisions."""
        return check_of(METHODS[path], self.authority, self.listener)


def direct_methods(parts: Parts) -> Mapping[str, Answer]:
    """Return what answers the direct methods of the gRPC port, by path."""
    found = {}
    for path in PATHS:
        check = parts.check(path)
        made = _evaluate_flag(parts, check) if path == EVALUATE else _resolve(*RESOLVES[path], parts, check)
        found[path] = _guarded(made, check, parts.limits)
    return found


def _guarded(evaluate: Evaluate, check: Check | None, limits: SecondThread | None) -> Answer:
    """Return what evaluates for callers who may, within their rate. Whatever it raises, the handler raises again."""

    def guarded(payload: bytes, metadata: Metadata, peer: str) -> bytes | None:
        if len(payload) > MAX_EVALUATION_BYTES:
            return None
        try:
            caller, share = UNCHECKED, None
            if check is not None:
                known = check.known(metadata)
                if known is None:
                    return None
                caller = known
                CALLER.set(caller)
                PROVEN.set(caller.context)  # also where it proves nothing: the last call may have had other fields
            if limits is not None and (share := limits.share(caller, peer)) is None:
                return None
            response = evaluate(payload, metadata, caller)
        except Exception:  # noqa: BLE001  the handler raises it again, for the caller and for the log
            return None
        if response is not None and share is not None:
            SecondThread.took(share)
        return response

    return guarded


def _evaluate_flag(parts: Parts, check: Check | None) -> Evaluate:
    reader, contexts = parts.reader, parts.contexts

    def evaluate_flag(payload: bytes, metadata: Metadata, caller: Identity) -> bytes | None:
        request = pb.EvaluateFlagRequest.FromString(payload)
        if request.explain or request.HasField("as_of"):
            return None
        if check is not None:
            check.permitted(caller, request, metadata)
        flag_id = validation.flag_id(request.flag_set, request.flag_key)
        attributes = contexts.of_message(request.context, lambda: metadata)
        if attributes.__class__ is LazyContext and attributes.is_large:
            return None
        expected, revision = messages.expected_type(request.expected_type), messages.min_revision(request.min_revision)
        evaluation = reader.evaluate(flag_id, attributes, expected, revision)
        if evaluation is None:
            return None
        reply = kept(evaluation, expected)
        if reply is None:
            if is_long_work(evaluation):
                return None
            reply = messages.around_age(evaluation)
            keep(evaluation, expected, reply)
        reader.evaluated(evaluation)
        return messages.with_age(reply, evaluation.age_s)

    return evaluate_flag


def _resolve(protocol: Protocol, name: str, parts: Parts, check: Check | None) -> Evaluate:
    parse: Callable[[bytes], Any] = getattr(protocol.messages, f"Resolve{name}Request").FromString
    value_type, packed = TYPES[name], packer(protocol, name)
    reader, contexts, selectors = parts.reader, parts.contexts, parts.listener.selectors
    without, covered_for_all = selectors.without.flag_set, parts.covered_for_all

    def resolve(payload: bytes, metadata: Metadata, caller: Identity) -> bytes | None:
        request, selector = parse(payload), selectors.of(metadata)
        if check is not None:
            check.permitted(caller, request, metadata)
        attributes = contexts.of_struct(request.context, metadata, with_headers=not protocol.is_first)
        if attributes.__class__ is LazyContext and attributes.is_large:
            return None
        flag_id = validation.flag_id(selector.flag_set, request.flag_key)
        evaluation = reader.evaluate(flag_id, attributes, value_type, min_revision_of(metadata))
        if evaluation is None:
            return None
        flag_set = selector.flag_set
        if evaluation.outcome.reason is Reason.STATIC and flag_set != without and not covered_for_all(flag_set):
            return None  # its caller's event streams have to follow the set: `EventStreams.may_cache`
        form = (packed, selector.text)
        reply = kept(evaluation, form)
        if reply is None:
            if is_long_work(evaluation):
                return None
            reply = (packed(evaluation, reason_of(evaluation, protocol), selector),)
            keep(evaluation, form, reply)
        reader.evaluated(evaluation)
        return reply[0]

    return resolve
