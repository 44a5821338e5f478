"""Records calls that change something other than flags and tokens, whose entries are stored with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import grpc

from flagsvc.api.common.handlers import Handler
from flagsvc.audit.recorder import AuditRecorder, subject_of

_OWN = "/flagsvc.v1.FlagService/"
RECORDED: Mapping[str, Callable[[Any, Any], bool]] = {
    _OWN + "VerifyCache": lambda request, _response: bool(request.repair),
    _OWN + "Resync": lambda request, _response: bool(request.confirm),
    _OWN + "SetBucketing": lambda _request, response: bool(response.done),
}
"""The methods that are recorded, each with whether a call has changed anything, by its request and response."""


class Auditing:
    """Inside the interceptor that checks callers. Methods that are not recorded stay as they are."""

    def __init__(self, recorder: AuditRecorder) -> None:
        self._recorder = recorder

    def wrap(self, method: str, handler: Handler) -> Handler:
        """Return the handler of a method, which records its calls if they are to be recorded."""
        has_changed = RECORDED.get(method)
        if handler.unary_unary is None or has_changed is None:
            return handler
        call: Callable[[Any, Any], Any] = handler.unary_unary
        action = method.rpartition("/")[2]

        async def recorded(request: Any, context: Any) -> Any:
            response = await call(request, context)
            if has_changed(request, response):
                await self._recorder.record(action, request, subject_of(request))
            return response

        return grpc.unary_unary_rpc_method_handler(recorded, handler.request_deserializer, handler.response_serializer)
