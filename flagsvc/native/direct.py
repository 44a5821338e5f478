"""Evaluations that are answered in the front's thread, from the view that the near cache publishes.

Only what memory alone answers, and answers well, is answered here. Everything else is left to the event loop, and to
the same handlers as over any other transport: errors, explanations, large contexts and values, rules that are not
compiled yet, and whatever this replica cannot say without asking.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from flagsvc.api.common.answers import is_long_work
from flagsvc.api.common.consistency_tokens import min_revision_of
from flagsvc.api.common.contexts import Contexts, LazyContext, Metadata
from flagsvc.api.common.replies import keep, kept
from flagsvc.api.common.request_limits import MAX_EVALUATION_BYTES
from flagsvc.api.common.selectors import Selectors
from flagsvc.api.flag_service import messages
from flagsvc.api.flagd.evaluation import PROTOCOLS, TYPES, Protocol, packer, reason_of
from flagsvc.core import validation
from flagsvc.core.evaluation import Reason
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.serving.second_reader import SecondReader
from flagsvc.telemetry import Metrics

EVALUATE = "/flagsvc.v1.FlagService/EvaluateFlag"
Answer = Callable[[bytes, Metadata], bytes | None]
"""Answers a request with its headers; None if the event loop has to."""


def direct_methods(
    reader: SecondReader, contexts: Contexts, selectors: Selectors, metrics: Metrics
) -> Mapping[str, Answer]:
    """Return what answers the direct methods of the gRPC port, by path."""
    methods = {EVALUATE: _evaluate_flag(reader, contexts)}
    for protocol in PROTOCOLS:
        for name in TYPES:
            path = f"/{protocol.service}/Resolve{name}"
            methods[path] = _resolve(protocol, name, reader, contexts, selectors)
    return {path: _measured(answer, metrics.calls.another(label(path)).ended) for path, answer in methods.items()}


def label(path: str) -> str:
    """Return a method's name in metrics."""
    return path.removeprefix("/flagsvc.v1.FlagService/").removeprefix("/")


def _measured(answer: Answer, ended: Callable[[str, float], None]) -> Answer:
    def measured(payload: bytes, metadata: Metadata) -> bytes | None:
        if len(payload) > MAX_EVALUATION_BYTES:
            return None
        started = time.perf_counter()
        try:
            response = answer(payload, metadata)
        except Exception:  # noqa: BLE001  the handler raises it again, for the caller and for the log
            return None
        if response is not None:
            ended("OK", time.perf_counter() - started)
        return response

    return measured


def _evaluate_flag(reader: SecondReader, contexts: Contexts) -> Answer:
    def evaluate_flag(payload: bytes, metadata: Metadata) -> bytes | None:
        request = pb.EvaluateFlagRequest.FromString(payload)
        if request.explain:
            return None
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


def _resolve(protocol: Protocol, name: str, reader: SecondReader, contexts: Contexts, selectors: Selectors) -> Answer:
    parse: Callable[[bytes], Any] = getattr(protocol.messages, f"Resolve{name}Request").FromString
    value_type, packed = TYPES[name], packer(protocol, name)
    without = selectors.without.flag_set

    def resolve(payload: bytes, metadata: Metadata) -> bytes | None:
        request, selector = parse(payload), selectors.of(metadata)
        attributes = contexts.of_struct(request.context, metadata, with_headers=not protocol.is_first)
        if attributes.__class__ is LazyContext and attributes.is_large:
            return None
        flag_id = validation.flag_id(selector.flag_set, request.flag_key)
        evaluation = reader.evaluate(flag_id, attributes, value_type, min_revision_of(metadata))
        if evaluation is None:
            return None
        if evaluation.outcome.reason is Reason.STATIC and selector.flag_set != without:
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
