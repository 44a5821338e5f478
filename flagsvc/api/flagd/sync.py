"""flagd's sync service: whole flag sets for providers that evaluate in process.

A change is encoded once for all streams. A stream stores only the version that it last sent, so a client that does not
read costs nothing and continues with the newest version.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

import grpc
import structlog

from flagsvc.api.common.callers import CALLER
from flagsvc.api.common.contexts import Contexts
from flagsvc.api.common.listener import Listener
from flagsvc.api.common.selectors import Selectors
from flagsvc.api.common.shared import SharedBySet
from flagsvc.api.flagd.definitions import definition_of
from flagsvc.api.flagd.struct_fields import put_fields
from flagsvc.api.flagd.sync_payload import Payload
from flagsvc.core.errors import Stopping, StreamEnded
from flagsvc.core.evaluation import prepare
from flagsvc.core.flagd.sets import NamedSets
from flagsvc.core.model import Flag, FlagId, JsonValue
from flagsvc.generated.flagd.sync.v1 import sync_pb2 as pb
from flagsvc.serving.reader import Reader
from flagsvc.turns import Turns, off_loop
from flagsvc.view.near_cache import NearCache

FILE = pb.DESCRIPTOR
SERVICE = "flagd.sync.v1.FlagSyncService"
PAUSE_S = 0.005
"""Minimum seconds between two messages of a stream."""
PAUSE_PER_STREAM_S = 0.0003
"""The same for each open stream, so that sending to all of them leaves time for evaluations."""

Context = grpc.aio.ServicerContext[Any, Any]
log = structlog.get_logger(__name__)


class FlagdSync:
    """Serves flagd.sync.v1.FlagSyncService. `age_s`: seconds after which a stream ends."""

    def __init__(
        self, near: NearCache, reader: Reader, contexts: Contexts, sets: NamedSets, *, age_s: float = math.inf
    ) -> None:
        self._near, self._reader, self._contexts = near, reader, contexts
        self._sets, self._age_s = sets, age_s
        self._payloads = SharedBySet(self._begin, self._end)
        self._logged: dict[FlagId, int] = {}
        self._closing = False
        self.active = 0
        near.when_missed(self._send_again)

    def add_to(self, server: grpc.aio.Server, listener: Listener) -> None:
        """Register the service for a listener. Its streams yield encoded messages, which are sent unchanged."""
        stream, fetch = partial(self.sync_flags, listener.selectors), partial(self.fetch_all_flags, listener.selectors)
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "SyncFlags": grpc.unary_stream_rpc_method_handler(stream, pb.SyncFlagsRequest.FromString),
            "FetchAllFlags": grpc.unary_unary_rpc_method_handler(
                fetch, pb.FetchAllFlagsRequest.FromString, pb.FetchAllFlagsResponse.SerializeToString
            ),
            "GetMetadata": grpc.unary_unary_rpc_method_handler(
                self.get_metadata, pb.GetMetadataRequest.FromString, pb.GetMetadataResponse.SerializeToString
            ),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    def close(self) -> None:
        """End every stream, so that clients reconnect to another replica."""
        self._closing = True
        for payload in self._payloads.values():
            payload.wake()

    def _send_again(self, flag_set: str) -> None:
        for payload in self._payloads.values():
            payload.note_missed(flag_set)

    async def sync_flags(
        self, selectors: Selectors, request: pb.SyncFlagsRequest, context: Context
    ) -> AsyncIterator[bytes]:
        """Yield the set, and yield it again after changes: the newest version, not every one in between.

        Ends by raising Stopping or StreamEnded, because flagd's Node provider does not reconnect after OK.
        """
        ends_at, sent = time.monotonic() + self._age_s, -1
        flag_set = selectors.of(context.invocation_metadata(), request.selector).flag_set
        proven = _proven(CALLER.get().context)
        with self._payloads.of(flag_set) as payload:
            self.active += 1
            try:
                while not self._closing and (left := ends_at - time.monotonic()) > 0:
                    if sent == payload.version:
                        await payload.wait_for_change(left)
                        continue
                    sent, message = await payload.newest()
                    if proven:  # messages that are encoded one after the other are one
                        message = await off_loop(b"".join, (message, proven))
                    yield message
                    del message  # while a stream waits for a change, only its payload holds the message
                    await asyncio.sleep(max(PAUSE_S, self.active * PAUSE_PER_STREAM_S))
                raise Stopping if self._closing else StreamEnded
            finally:
                self.active -= 1

    async def fetch_all_flags(self, selectors: Selectors, request: pb.FetchAllFlagsRequest, context: Context) -> bytes:
        """Return the set once: FetchAllFlagsResponse is SyncFlagsResponse without the sync context."""
        flag_set = selectors.of(context.invocation_metadata(), request.selector).flag_set
        with self._payloads.of(flag_set) as payload:
            message = await payload.configuration()
        await Turns().next()  # gRPC copies the message in one go
        return message

    async def get_metadata(self, _request: pb.GetMetadataRequest, _context: Context) -> pb.GetMetadataResponse:
        """Return the context fields that override the callers'. Always set, because older providers require it."""
        response = pb.GetMetadataResponse()
        put_fields(response.metadata, {**self._contexts.values, **(CALLER.get().context or {})})
        return response

    def _begin(self, flag_set: str) -> Payload:
        payload = Payload(flag_set, self._near, self._reader, self._render, self._contexts.values)
        self._near.changelogs.listen(flag_set, payload.note)
        return payload

    def _end(self, flag_set: str, payload: Payload) -> None:
        self._near.changelogs.unlisten(flag_set, payload.note)
        payload.close()

    async def _render(self, flag: Flag) -> bytes:
        """Return a flag's definition. A broken flag is logged once for each of its revisions."""
        held = self._near.get(flag.id)
        if held is not None and held.entry.flag is flag:
            if not held.is_compiled:
                await held.compile()
            prepared = held.prepared
        else:
            prepared = await off_loop(prepare, flag)
        is_large, family = self._near.is_large(flag) or bool(prepared.prerequisites), None
        if prepared.prerequisites:
            family = await self._reader.family(flag.id)
            flag, prepared = family.get(flag.key, (flag, prepared))
        text, problem = (
            await off_loop(definition_of, flag, prepared, self._sets, family)
            if is_large
            else definition_of(flag, prepared, self._sets)
        )
        if problem and self._logged.get(flag.id) != flag.revision:
            self._logged[flag.id] = flag.revision
            log.warning("flag_synced_as_disabled", flag=flag.key, flag_set=flag.flag_set, problem=problem)
        return text.encode()


def _proven(fields: Mapping[str, JsonValue] | None) -> bytes:
    """Return the context fields that a caller's credential proves, as they follow in a sync message."""
    message = pb.SyncFlagsResponse()
    if fields:
        put_fields(message.sync_context, fields)
    return bytes(message.SerializeToString())
