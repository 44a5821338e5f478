"""flagd's evaluation services, all three versions from one place: what differs between them is the table PROTOCOLS."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import grpc

from flagsvc.api.common.consistency_tokens import min_revision_of
from flagsvc.api.common.contexts import Contexts
from flagsvc.api.common.selectors import Selector, selector_of
from flagsvc.api.flagd.event_streams import Events
from flagsvc.api.flagd.struct_fields import put_fields
from flagsvc.core import json_values, validation
from flagsvc.core.errors import EvaluationFailed, InvalidRequest
from flagsvc.core.evaluation import ErrorCode, Reason, ValueType
from flagsvc.core.model import DEFAULT_SET, FlagId, JsonValue
from flagsvc.generated.flagd.evaluation.v1 import evaluation_pb2 as v1
from flagsvc.generated.flagd.evaluation.v2 import evaluation_pb2 as v2
from flagsvc.generated.schema.v1 import schema_pb2 as schema
from flagsvc.serving.reader import Evaluation, Reader

Context = grpc.aio.ServicerContext[Any, Any]
Handler = Callable[[Any, Context], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """One version: its messages, and where it differs. A value that is not there is zero, or unset where v2 has it.

    `without_default`: the reason told for a flag that has no default variant when nothing else was chosen;
    None: the flag counts as not found.
    """

    service: str
    messages: Any
    without_default: str | None
    resolves_all: bool = True
    reads_headers: bool = True
    tells_metadata_of_all: bool = True


PROTOCOLS = (
    Protocol(service="flagd.evaluation.v1.Service", messages=v1, without_default=None),
    Protocol(service="flagd.evaluation.v2.Service", messages=v2, without_default="DEFAULT", resolves_all=False),
    Protocol(
        service="schema.v1.Service",
        messages=schema,
        without_default="FALLBACK",
        reads_headers=False,
        tells_metadata_of_all=False,
    ),
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
    """Serves every version of flagd's evaluation from a reader and the event streams."""

    def __init__(
        self, reader: Reader, events: Events, contexts: Contexts, evaluated: Callable[[Evaluation], None]
    ) -> None:
        self._reader, self._events, self._contexts, self._evaluated = reader, events, contexts, evaluated

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the services."""
        server.add_generic_rpc_handlers(tuple(map(self._service, PROTOCOLS)))

    def _service(self, protocol: Protocol) -> grpc.GenericRpcHandler:
        calls = {f"Resolve{name}": self._resolver(protocol, name, wanted) for name, wanted in TYPES.items()}
        if protocol.resolves_all:
            calls["ResolveAll"] = self._all_resolver(protocol)
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(call, *_codec(protocol, name)) for name, call in calls.items()
        }
        events = grpc.unary_stream_rpc_method_handler(self._event_stream(protocol), *_codec(protocol, "EventStream"))
        return grpc.method_handlers_generic_handler(protocol.service, {**handlers, "EventStream": events})

    def _resolver(self, protocol: Protocol, name: str, wanted: ValueType) -> Handler:
        """Make the call for one type. A whole number serves as a float; a float, also 10.0, never as an integer."""
        response_type = getattr(protocol.messages, f"Resolve{name}Response")

        async def resolve(request: Any, context: Context) -> Any:
            metadata = context.invocation_metadata()
            selector = selector_of(metadata)
            attributes = self._contexts.of_struct(request.context, metadata, with_headers=protocol.reads_headers)
            flag_id, least = _flag_id(selector, request.flag_key), min_revision_of(metadata)
            evaluation = await self._reader.evaluate(flag_id, attributes, wanted, least)
            self._evaluated(evaluation)
            if evaluation.outcome.reason is Reason.STATIC and selector.flag_set != DEFAULT_SET:
                self._events.may_cache(context.peer(), selector.flag_set)
            response = response_type(reason=_reason(evaluation, protocol))
            outcome = evaluation.outcome
            if outcome.variant is not None:
                response.variant = outcome.variant
                if wanted is ValueType.OBJECT:
                    put_fields(response.value, outcome.value)
                else:
                    response.value = outcome.value
            put_fields(response.metadata, selector.metadata)
            if evaluation.flag is not None:
                put_fields(response.metadata, evaluation.flag.metadata)
            return response

        return resolve

    def _all_resolver(self, protocol: Protocol) -> Handler:
        """Make the call for a whole set: one context, one pass."""
        response_type, tells_metadata = protocol.messages.ResolveAllResponse, protocol.tells_metadata_of_all

        async def resolve_all(request: Any, context: Context) -> Any:
            metadata = context.invocation_metadata()
            selector = selector_of(metadata)
            view = self._contexts.of_struct(request.context, metadata, with_headers=protocol.reads_headers)
            response = response_type()
            least = min_revision_of(metadata)
            for evaluation in await self._reader.evaluate_all(selector.flag_set, (), dict(view), least):
                self._evaluated(evaluation)
                field = _listed_as(evaluation)
                if field is None:
                    continue
                message = response.flags[evaluation.flag_id.key]
                _put_any(message, field, evaluation)
                if tells_metadata and evaluation.flag is not None:
                    put_fields(message.metadata, selector.metadata)
                    put_fields(message.metadata, evaluation.flag.metadata)
            if tells_metadata:
                put_fields(response.metadata, selector.metadata)
            return response

        return resolve_all

    def _event_stream(self, protocol: Protocol) -> Handler:
        async def event_stream(_request: Any, context: Context) -> AsyncIterator[Any]:
            selector = selector_of(context.invocation_metadata())
            response_type = protocol.messages.EventStreamResponse
            async for message in self._events.stream(
                selector.flag_set, response_type, peer=context.peer(), selects=bool(selector.metadata)
            ):
                yield message

        return event_stream


def _codec(protocol: Protocol, name: str) -> tuple[Any, Any]:
    request, response = (getattr(protocol.messages, f"{name}{kind}") for kind in ("Request", "Response"))
    return request.FromString, response.SerializeToString


def _flag_id(selector: Selector, key: str) -> FlagId:
    try:
        return validation.flag_id(selector.flag_set, key)
    except InvalidRequest:  # no flag can have that name; INVALID_ARGUMENT would be read as a wrong type
        raise EvaluationFailed(ErrorCode.FLAG_NOT_FOUND) from None


def _reason(evaluation: Evaluation, protocol: Protocol) -> str:
    """Give the reason to tell. Raises EvaluationFailed for what flagd answers with a status.

    An answer without a value is never STALE: only DISABLED and DEFAULT make a caller use its own default.
    """
    outcome = evaluation.outcome
    if outcome.error_code is not None:
        raise EvaluationFailed(outcome.error_code)
    if outcome.variant is not None:
        return outcome.reason
    if evaluation.is_disabled:
        return Reason.DISABLED
    if protocol.without_default is None:
        raise EvaluationFailed(ErrorCode.FLAG_NOT_FOUND)
    return protocol.without_default


def _listed_as(evaluation: Evaluation) -> str | None:
    """Name the field that holds a flag's value among all flags; None for a flag that is left out as flagd does.

    Left out is what has no default variant unless it is disabled, and what fits none of the fields.
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
