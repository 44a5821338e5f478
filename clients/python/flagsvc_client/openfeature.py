"""The OpenFeature provider: FlagsvcProvider asks the service, or evaluates from a local copy of the flag set.

It needs the extra: `pip install "flagsvc-client[openfeature]"`.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import grpc
from openfeature import evaluation_context as openfeature_context
from openfeature.event import ProviderEvent, ProviderEventDetails
from openfeature.exception import ErrorCode, ProviderNotReadyError, TypeMismatchError
from openfeature.flag_evaluation import FlagResolutionDetails, FlagValueType, Reason
from openfeature.provider import AbstractProvider, Metadata

from . import FlagClient, aio
from .access import Tls, Token
from .client_events import ClientEvent
from .details import ErrorCode as OwnErrorCode
from .details import EvaluationContext, EvaluationDetails, JsonValue

READY_TIMEOUT_S = 5.0
_EVENTS = {
    "ready": ProviderEvent.PROVIDER_READY,
    "stale": ProviderEvent.PROVIDER_STALE,
    "error": ProviderEvent.PROVIDER_ERROR,
    "changed": ProviderEvent.PROVIDER_CONFIGURATION_CHANGED,
}
_DEFAULTS_OF: dict[type, tuple[type, ...]] = {
    bool: (bool,),
    str: (str,),
    int: (int,),
    float: (float, int),
    dict: (Mapping, list, tuple),
}
Context = openfeature_context.EvaluationContext | None
Object = Sequence[FlagValueType] | Mapping[str, FlagValueType]
T = TypeVar("T")


class FlagsvcProvider(AbstractProvider):
    """Resolves the flags of one set; the options are FlagClient's. A process may have any number of providers.

    `client`: a FlagClient in place of a target, which the provider does not close, such as the in-memory client of
    `flagsvc_client.testing`.
    Over the network, READY and ERROR report whether the server answered the last evaluation. With `local`, READY,
    STALE, ERROR and CONFIGURATION_CHANGED report the state of the local copy, and no evaluation makes a call.
    Setting the provider waits for the server: up to `timeout_s` over the network, `ready_timeout_s` with `local`.
    It emits READY or ERROR itself before `initialize` ends, as the specification 0.9 says. Releases of the SDK that do
    not know that yet emit the same once more.
    The metadata is the flag's own, plus `flagSetId`, `version` (the revision) and `flagsvc.source` unless it has them.
    """

    emits_lifecycle_events = True
    """The marker of the specification's Appendix E, for SDKs that look for it."""

    def __init__(
        self,
        target: str = "",
        *,
        client: FlagClient | None = None,
        flag_set: str = "default",
        timeout_s: float = 0.5,
        credentials: grpc.ChannelCredentials | None = None,
        tls: Tls | bool = False,
        token: Token | None = None,
        plaintext_token: bool = False,
        local: bool = False,
        ready_timeout_s: float = READY_TIMEOUT_S,
        snapshot_file: str | os.PathLike[str] | None = None,
        staleness_bound_s: float = 30.0,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        super().__init__()
        if bool(target) is (client is not None):
            raise ValueError("FlagsvcProvider takes a target or a client")
        self._target, self._flag_set, self._local = target, flag_set, local
        self._given, self._remove_listener = client, _nothing
        if client is not None:
            self._local = client.is_local
        self._ready_timeout_s = ready_timeout_s
        self._settings: dict[str, Any] = {
            "flag_set": flag_set,
            "timeout_s": timeout_s,
            "credentials": credentials,
            "tls": tls,
            "token": token,
            "plaintext_token": plaintext_token,
            "options": options,
        }
        self._local_settings: dict[str, Any] = {
            "local": True,
            "snapshot_file": snapshot_file,
            "staleness_bound_s": staleness_bound_s,
            "on_event": self._on_client_event,
        }
        self._client: FlagClient | None = None
        self._aio_clients: dict[asyncio.AbstractEventLoop, aio.AsyncFlagClient] = {}
        self._lock = threading.RLock()
        self._emits_events = False
        self._answered = True

    def get_metadata(self) -> Metadata:
        """Return the provider's name."""
        return Metadata(name="flagsvc")

    def initialize(self, evaluation_context: openfeature_context.EvaluationContext) -> None:  # noqa: ARG002
        """Start, and wait a bounded time for the server. Raises ProviderNotReadyError, but continues to connect."""
        self.shutdown()
        client = self._given
        if client is None:
            client = FlagClient(self._target, **self._settings, **(self._local_settings if self._local else {}))
        else:
            self._remove_listener = client.listen(self._on_client_event)
        self._client = client
        ready = client.wait_ready(self._ready_timeout_s) if self._local else _answers(client)
        with self._lock:
            self._emits_events = True
            self._answered = ready or (self._local and client.ready)
            if self._answered:
                self._emit(ClientEvent("ready"))
                return
            message = f"No flags from {self._target or 'the client'} yet; still connecting"
            self._emit(ClientEvent("error", message=message))
            raise ProviderNotReadyError(message)

    def shutdown(self) -> None:
        """Close all clients, each asyncio client in its own event loop."""
        with self._lock:
            client, self._client = self._client, None
            aio_clients, self._aio_clients = self._aio_clients, {}
            self._emits_events = False
            remove_listener, self._remove_listener = self._remove_listener, _nothing
        remove_listener()
        if client is not None and client is not self._given:
            client.close()
        for loop, aio_client in aio_clients.items():
            _close_in(loop, aio_client)

    def resolve_boolean_details(
        self, flag_key: str, default_value: bool, evaluation_context: Context = None
    ) -> FlagResolutionDetails[bool]:
        """Evaluate a boolean flag."""
        return self._resolve(flag_key, default_value, False, evaluation_context)

    def resolve_string_details(
        self, flag_key: str, default_value: str, evaluation_context: Context = None
    ) -> FlagResolutionDetails[str]:
        """Evaluate a string flag."""
        return self._resolve(flag_key, default_value, "", evaluation_context)

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: Context = None
    ) -> FlagResolutionDetails[int]:
        """Evaluate an integer flag."""
        return self._resolve(flag_key, default_value, 0, evaluation_context)

    def resolve_float_details(
        self, flag_key: str, default_value: float, evaluation_context: Context = None
    ) -> FlagResolutionDetails[float]:
        """Evaluate a number flag; whole numbers are converted to float, and so is the default."""
        return self._resolve(flag_key, _widened(default_value), 0.0, evaluation_context)

    def resolve_object_details(
        self, flag_key: str, default_value: Object, evaluation_context: Context = None
    ) -> FlagResolutionDetails[Object]:
        """Evaluate an object flag."""
        return self._resolve(flag_key, default_value, {}, evaluation_context)

    async def resolve_boolean_details_async(
        self, flag_key: str, default_value: bool, evaluation_context: Context = None
    ) -> FlagResolutionDetails[bool]:
        """Evaluate a boolean flag."""
        return await self._resolve_async(flag_key, default_value, False, evaluation_context)

    async def resolve_string_details_async(
        self, flag_key: str, default_value: str, evaluation_context: Context = None
    ) -> FlagResolutionDetails[str]:
        """Evaluate a string flag."""
        return await self._resolve_async(flag_key, default_value, "", evaluation_context)

    async def resolve_integer_details_async(
        self, flag_key: str, default_value: int, evaluation_context: Context = None
    ) -> FlagResolutionDetails[int]:
        """Evaluate an integer flag."""
        return await self._resolve_async(flag_key, default_value, 0, evaluation_context)

    async def resolve_float_details_async(
        self, flag_key: str, default_value: float, evaluation_context: Context = None
    ) -> FlagResolutionDetails[float]:
        """Evaluate a number flag; whole numbers are converted to float, and so is the default."""
        return await self._resolve_async(flag_key, _widened(default_value), 0.0, evaluation_context)

    async def resolve_object_details_async(
        self, flag_key: str, default_value: Object, evaluation_context: Context = None
    ) -> FlagResolutionDetails[Object]:
        """Evaluate an object flag."""
        return await self._resolve_async(flag_key, default_value, {}, evaluation_context)

    def _resolve(self, key: str, default: T, kind: JsonValue, context: Context) -> FlagResolutionDetails[T]:
        """Evaluate; `kind` is any value of the expected type."""
        _check_default(key, default, kind.__class__)
        details = self._running().details(key, _own_context(context), default=kind)
        return self._resolution(default, details)

    async def _resolve_async(self, key: str, default: T, kind: JsonValue, context: Context) -> FlagResolutionDetails[T]:
        if self._local:
            return self._resolve(key, default, kind, context)
        if self._given is not None:
            return await asyncio.to_thread(self._resolve, key, default, kind, context)
        _check_default(key, default, kind.__class__)
        details = await self._aio_client().details(key, _own_context(context), default=kind)
        return self._resolution(default, details)

    def _running(self) -> FlagClient:
        client = self._client
        if client is None:
            raise ProviderNotReadyError("The provider is not initialized, or was shut down")
        return client

    def _aio_client(self) -> aio.AsyncFlagClient:
        """Return the running loop's client: an asyncio channel of grpc belongs to one loop."""
        loop = asyncio.get_running_loop()
        found = self._aio_clients.get(loop)
        if found is None:
            with self._lock:
                self._running()
                found = aio.AsyncFlagClient(self._target, **self._settings)
                others = {loop: client for loop, client in self._aio_clients.items() if not loop.is_closed()}
                self._aio_clients = {**others, loop: found}
        return found

    def _resolution(self, default: T, details: EvaluationDetails[JsonValue]) -> FlagResolutionDetails[T]:
        if not self._local:
            self._emit_if_changed(details.error_code is not OwnErrorCode.PROVIDER_NOT_READY, details)
        return FlagResolutionDetails(
            value=default if details.variant is None else details.value,
            error_code=None if details.error_code is None else ErrorCode(details.error_code),
            error_message=details.error_message or None,
            reason=Reason(details.reason),
            variant=details.variant,
            flag_metadata=self._metadata(details),
        )

    def _metadata(self, details: EvaluationDetails[JsonValue]) -> dict[str, bool | int | float | str]:
        if not details.revision:
            return dict(details.flag_metadata)
        own = {"flagSetId": self._flag_set, "version": str(details.revision), "flagsvc.source": details.source.value}
        return own | details.flag_metadata  # type: ignore[operator,no-any-return]

    def _emit_if_changed(self, answered: bool, details: EvaluationDetails[JsonValue]) -> None:
        if answered is self._answered:
            return
        with self._lock:
            if answered is not self._answered:
                self._answered = answered
                self._emit(ClientEvent("ready" if answered else "error", frozenset(), details.error_message))

    def _on_client_event(self, event: ClientEvent) -> None:
        with self._lock:
            self._emit(event)

    def _emit(self, event: ClientEvent) -> None:
        """Emit an event, except during set-up: `initialize` emits the state that it ends with."""
        if not self._emits_events:
            return
        changed = sorted(event.keys) if event.kind == "changed" else None
        error_code = ErrorCode.PROVIDER_NOT_READY if event.kind == "error" else None
        details = ProviderEventDetails(flags_changed=changed, message=event.message or None, error_code=error_code)
        self.emit(_EVENTS[event.kind], details)


def _nothing() -> None:
    """Remove no listener."""


def _answers(client: FlagClient) -> bool:
    """Whether the service answers an evaluation; the flag does not matter."""
    return client.details("openfeature", default=False).error_code is not OwnErrorCode.PROVIDER_NOT_READY


def _close_in(loop: asyncio.AbstractEventLoop, client: aio.AsyncFlagClient) -> None:
    """Close a client in its own loop. If that has stopped, the client ends with its last reference."""

    def close() -> None:
        closing.append(loop.create_task(client.close()))

    closing: list[asyncio.Task[None]] = []
    if loop.is_running():
        loop.call_soon_threadsafe(close)


def _check_default(key: str, default: object, kind: type) -> None:
    if not isinstance(default, _DEFAULTS_OF[kind]) or (isinstance(default, bool) and kind is not bool):
        raise TypeMismatchError(f"The default for {key!r} is of type {default.__class__.__name__}, not {kind.__name__}")


def _widened(number: float) -> float:
    return float(number) if number.__class__ is int else number


def _own_context(context: Context) -> EvaluationContext | None:
    if context is None:
        return None
    return EvaluationContext(context.targeting_key or "", context.attributes)
