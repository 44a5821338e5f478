"""flagd's evaluation services. One implementation serves all three versions; the table PROTOCOLS has what differs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import grpc

from flagsvc.api.common.answers import ONE_BY_ONE, AnswerSize, is_long_work
from flagsvc.api.common.bulk import Bulk, BulkCall, Packing, asked
from flagsvc.api.common.consistency_tokens import min_revision_of
from flagsvc.api.common.contexts import Contexts, LazyContext, in_full
from flagsvc.api.common.listener import Listener
from flagsvc.api.common.peers import Peers
from flagsvc.api.common.replies import Reply, keep, kept
from flagsvc.api.common.selectors import Selector, Selectors
from flagsvc.api.flagd.event_streams import EventStreams
from flagsvc.api.flagd.struct_fields import put_fields
from flagsvc.core import json_values, validation
from flagsvc.core.errors import EvaluationFailed, InvalidRequest
from flagsvc.core.evaluation import ErrorCode, Reason, ValueType
from flagsvc.core.model import FlagId, JsonValue
from flagsvc.generated.flagd.evaluation.v1 import evaluation_pb2 as v1
from flagsvc.generated.flagd.evaluation.v2 import evaluation_pb2 as v2
from flagsvc.generated.schema.v1 import schema_pb2 as schema
from flagsvc.serving.reader import Evaluation, Reader
from flagsvc.turns import off_loop

Context = grpc.aio.ServicerContext[Any, Any]
Handler = Callable[[Any, Context], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """One version of the service. A missing value is zero in its messages; in v2's it is unset.

    `without_default`: reason of an evaluation that chose no variant because the flag has no default variant;
    None if this version answers FLAG_NOT_FOUND instead. `is_first`: reads no headers, has no metadata in ResolveAll.
    """

    service: str
    messages: Any
    without_default: str | None
    resolves_all: bool = True
    is_first: bool = False


PROTOCOLS = (
    Protocol(service="flagd.evaluation.v1.Service", messages=v1, without_default=None),
    Protocol(service="flagd.evaluation.v2.Service", messages=v2, without_default="DEFAULT", resolves_all=False),
    Protocol(service="schema.v1.Service", messages=schema, without_default="FALLBACK", is_first=True),
)
FILES = tuple(protocol.messages.DESCRIPTOR for protocol in PROTOCOLS)
TYPES = {
    "Boolean": ValueType.BOOLEAN,
    "String": ValueType.STRING,
    "Float": ValueType.FLOAT,
    "Int": ValueType.INTEGER,
    "Object": ValueType.OBJECT,
}
_FIELDS = {
    "boolean": "bool_value",
    "string": "string_value",
    "integer": "double_value",
    "float": "double_value",
    "object": "object_value",
}
_ZEROS = {"bool_value": False, "string_value": "", "double_value": 0.0, "object_value": {}}


class FlagdEvaluation:
    """Serves every version of flagd's evaluation service."""

    def __init__(
        self,
        reader: Reader,
        event_streams: EventStreams,
        contexts: Contexts,
        evaluated: Callable[[Evaluation], None],
        *,
        peers: Peers,
        bulk: Bulk,
    ) -> None:
        self._reader, self._event_streams, self._bulk = reader, event_streams, bulk
        self._contexts, self._evaluated, self._peers = contexts, evaluated, peers

    def add_to(self, server: grpc.aio.Server, listener: Listener) -> None:
        """Register the services for a listener."""
        server.add_generic_rpc_handlers(tuple(self._service(protocol, listener.selectors) for protocol in PROTOCOLS))

    def _service(self, protocol: Protocol, selectors: Selectors) -> grpc.GenericRpcHandler:
        calls = {f"Resolve{name}": self._resolver(protocol, name, of, selectors) for name, of in TYPES.items()}
        if protocol.resolves_all:
            calls["ResolveAll"] = self._all_resolver(protocol, selectors)
        unary = grpc.unary_unary_rpc_method_handler
        handlers = {name: unary(call, *_codec(protocol, name)) for name, call in calls.items()}
        stream = grpc.unary_stream_rpc_method_handler(
            self._event_stream(protocol, selectors), *_codec(protocol, "EventStream")
        )
        return grpc.method_handlers_generic_handler(protocol.service, {**handlers, "EventStream": stream})

    def _resolver(self, protocol: Protocol, name: str, value_type: ValueType, selectors: Selectors) -> Handler:
        """Return the handler for one value type. A whole number is an integer and a float."""
        packed = packer(protocol, name)

        async def resolve(request: Any, context: Context) -> Any:
            metadata = context.invocation_metadata()
            selector = selectors.of(metadata)
            attributes = self._contexts.of_struct(request.context, metadata, with_headers=not protocol.is_first)
            if attributes.__class__ is LazyContext and attributes.is_large:
                attributes = await in_full(attributes)
            flag_id = _flag_id(selector, request.flag_key)
            min_revision = min_revision_of(metadata)
            at_once = self._reader.evaluate_at_once(flag_id, attributes, value_type, min_revision)
            evaluation = at_once or await self._reader.evaluate(flag_id, attributes, value_type, min_revision)
            self._evaluated(evaluation)
            if evaluation.outcome.reason is Reason.STATIC and selector.flag_set != selectors.without.flag_set:
                self._event_streams.may_cache(self._peers.of(context), selector.flag_set)
            form = (packed, selector.text)
            reply = kept(evaluation, form)
            if reply is None:
                reason = reason_of(evaluation, protocol)
                if is_long_work(evaluation):
                    return await off_loop(packed, evaluation, reason, selector)
                reply = (packed(evaluation, reason, selector),)
                keep(evaluation, form, reply)
            return reply[0]

        return resolve

    def _all_resolver(self, protocol: Protocol, selectors: Selectors) -> Handler:
        """Return the handler that evaluates a whole flag set for one context."""
        response_type, has_metadata = protocol.messages.ResolveAllResponse, not protocol.is_first

        def packed(selector: Selector, evaluation: Evaluation) -> Reply | None:
            field = _value_field(evaluation)
            if field is None:
                return None
            part = response_type()
            message = part.flags[evaluation.flag_id.key]
            _put_any(message, field, evaluation)
            if has_metadata and evaluation.flag is not None:
                put_fields(message.metadata, selector.metadata)
                put_fields(message.metadata, evaluation.metadata)
            return (part.SerializeToString(),)

        async def resolve_all(request: Any, context: Context) -> Any:
            metadata = context.invocation_metadata()
            selector = selectors.of(metadata)
            attributes = self._contexts.of_struct(request.context, metadata, with_headers=not protocol.is_first)
            min_revision = min_revision_of(metadata)

            async def evaluate() -> AsyncIterator[Evaluation]:
                return self._reader.evaluate_set(selector.flag_set, await in_full(attributes), min_revision)

            question = request.SerializeToString(deterministic=True)
            added = self._contexts.added(lambda: metadata, with_headers=not protocol.is_first)
            call = BulkCall(
                asked(protocol.service, selector.flag_set, selector.text, question, added),
                evaluate,
                Packing((protocol.service, selector.text), partial(packed, selector)),
                size := AnswerSize(ONE_BY_ONE),
                min_revision,
            )
            rest = response_type()
            if has_metadata:
                put_fields(rest.metadata, selector.metadata)
            parts = [*await self._bulk.parts(call), rest.SerializeToString()]
            return await size.joined(parts)  # joined, responses are the response with all flags

        return resolve_all

    def _event_stream(self, protocol: Protocol, selectors: Selectors) -> Handler:
        async def event_stream(_request: Any, context: Context) -> AsyncIterator[Any]:
            selector = selectors.of(context.invocation_metadata())
            response_type, peer = protocol.messages.EventStreamResponse, self._peers.of(context)
            async for message in self._event_streams.stream(
                selector.flag_set, response_type, peer=peer, selects=bool(selector.metadata)
            ):
                yield message

        return event_stream


def _codec(protocol: Protocol, name: str) -> tuple[Any, Any]:
    request, response = (getattr(protocol.messages, f"{name}{kind}") for kind in ("Request", "Response"))
    return request.FromString, response.SerializeToString


def _flag_id(selector: Selector, key: str) -> FlagId:
    try:
        return validation.flag_id(selector.flag_set, key)
    except InvalidRequest:  # no flag can have that key; providers take INVALID_ARGUMENT for a type mismatch
        raise EvaluationFailed(ErrorCode.FLAG_NOT_FOUND) from None


@cache  # so that what it returns is one object for each method: kept answers go by it
def packer(protocol: Protocol, name: str) -> Callable[[Evaluation, str, Selector], bytes]:
    """Return what encodes the response of one method: of an evaluation, a reason, and the call's selector."""
    response_type, is_object = getattr(protocol.messages, f"Resolve{name}Response"), TYPES[name] is ValueType.OBJECT

    def packed(evaluation: Evaluation, reason: str, selector: Selector) -> bytes:
        response, outcome = response_type(reason=reason), evaluation.outcome
        if outcome.variant is not None:
            response.variant = outcome.variant
            if is_object:
                put_fields(response.value, outcome.value)
            else:
                response.value = outcome.value
        put_fields(response.metadata, selector.metadata)
        if evaluation.flag is not None:
            put_fields(response.metadata, evaluation.metadata)
        encoded: bytes = response.SerializeToString()
        return encoded

    return packed


def reason_of(evaluation: Evaluation, protocol: Protocol) -> str:
    """Return the reason to send. Raises EvaluationFailed if flagd answers with a failed call.

    Without a value the reason is never STALE: only DISABLED and DEFAULT make a provider use the caller's default.
    """
    outcome = evaluation.outcome
    if outcome.error_code is not None:
        # flagd's text says it all about a flag that does not exist.
        raise EvaluationFailed(outcome.error_code, outcome.message if evaluation.flag is not None else "")
    if outcome.variant is not None:
        return outcome.reason
    if evaluation.is_disabled:
        return Reason.DISABLED
    if protocol.without_default is None:
        raise EvaluationFailed(ErrorCode.FLAG_NOT_FOUND)
    return protocol.without_default


def _value_field(evaluation: Evaluation) -> str | None:
    """Return the name of ResolveAll's field for a flag's value; None for a flag that flagd leaves out.

    flagd leaves out a flag without a default variant, unless it is disabled, and a value that no field can hold.
    """
    flag, outcome = evaluation.flag, evaluation.outcome
    if flag is None:
        return None
    variants, default = flag.effective_variants, flag.effective_default
    if outcome.variant is not None:
        return _FIELDS.get(json_values.kind(outcome.value)) if default else None
    if outcome.error_code is None and not evaluation.is_disabled:
        return None
    example = variants.get(default) if default else None
    return _FIELDS.get(json_values.kind(example if example is not None else next(iter(variants.values()))))


def _put_any(message: Any, field: str, evaluation: Evaluation) -> None:
    outcome = evaluation.outcome
    if outcome.variant is not None:
        message.reason, message.variant = outcome.reason, outcome.variant
        value: JsonValue = outcome.value
    else:
        message.reason = Reason.DISABLED if outcome.error_code is None else Reason.ERROR
        value = _ZEROS[field]
    if field == "object_value":
        put_fields(message.object_value, value)
    else:
        setattr(message, field, value)
