"""flagd's sync service: whole flag sets for providers that evaluate by themselves.

A change makes one message, however many streams there are; a stream remembers only which version it sent last, so
one that does not read costs nothing and goes on with the newest.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import structlog

from flagsvc.api.common.contexts import Contexts
from flagsvc.api.common.selectors import selector_of
from flagsvc.api.flagd.definitions import definition_of
from flagsvc.api.flagd.struct_fields import put_fields
from flagsvc.api.flagd.sync_payload import Payload
from flagsvc.core.errors import Stopping, StreamEnded
from flagsvc.core.evaluation import Prepared
from flagsvc.core.model import Flag, FlagId
from flagsvc.generated.flagd.sync.v1 import sync_pb2 as pb
from flagsvc.serving.reader import Reader
from flagsvc.view.near_cache import NearCache

FILE = pb.DESCRIPTOR
SERVICE = "flagd.sync.v1.FlagSyncService"
PAUSE_S = 0.005
"""Least time between two messages of a stream."""
PAUSE_PER_STREAM_S = 0.0003
"""The same for each stream that there is: sending to all must leave time for evaluations."""

Context = grpc.aio.ServicerContext[Any, Any]
log = structlog.get_logger(__name__)


class FlagdSync:
    """Serves flagd.sync.v1.FlagSyncService; `close` ends its streams. `age_s`: how long one lasts."""

    def __init__(
        self, near: NearCache, reader: Reader, contexts: Contexts, prepare: Callable[[Flag], Prepared], age_s: float
    ) -> None:
        self._near, self._reader, self._contexts = near, reader, contexts
        self._prepare, self._age_s = prepare, age_s
        self._sets: dict[str, Payload] = {}
        self._told: dict[FlagId, int] = {}
        self._closing = False
        self.active = 0

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the service. Its streams give bytes, which go out as they are."""
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "SyncFlags": grpc.unary_stream_rpc_method_handler(self.sync_flags, pb.SyncFlagsRequest.FromString),
            "FetchAllFlags": grpc.unary_unary_rpc_method_handler(
                self.fetch_all_flags,
                pb.FetchAllFlagsRequest.FromString,
                pb.FetchAllFlagsResponse.SerializeToString,
            ),
            "GetMetadata": grpc.unary_unary_rpc_method_handler(
                self.get_metadata, pb.GetMetadataRequest.FromString, pb.GetMetadataResponse.SerializeToString
            ),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    def close(self) -> None:
        """Let every stream end, so that its client connects again elsewhere."""
        self._closing = True
        for payload in self._sets.values():
            payload.wake()

    async def sync_flags(self, request: pb.SyncFlagsRequest, context: Context) -> AsyncIterator[bytes]:
        """Give the set, and again after changes: always the newest, not all in between.

        Raises Stopping or StreamEnded at its end: after OK, flagd's Node provider would not connect again.
        """
        until, sent = time.monotonic() + self._age_s, -1
        flag_set = selector_of(context.invocation_metadata(), request.selector).flag_set
        with self._payload(flag_set) as payload:
            self.active += 1
            try:
                while not self._closing and (left := until - time.monotonic()) > 0:
                    if sent == payload.version:
                        await payload.change(left)
                        continue
                    sent, message = await payload.newest()
                    yield message
                    await asyncio.sleep(max(PAUSE_S, self.active * PAUSE_PER_STREAM_S))
                raise Stopping if self._closing else StreamEnded
            finally:
                self.active -= 1

    async def fetch_all_flags(self, request: pb.FetchAllFlagsRequest, context: Context) -> pb.FetchAllFlagsResponse:
        """Give the set once."""
        flag_set = selector_of(context.invocation_metadata(), request.selector).flag_set
        with self._payload(flag_set) as payload:
            _, message = await payload.newest()
        whole = pb.SyncFlagsResponse.FromString(message)
        return pb.FetchAllFlagsResponse(flag_configuration=whole.flag_configuration)

    async def get_metadata(self, _request: pb.GetMetadataRequest, _context: Context) -> pb.GetMetadataResponse:
        """Give the configured context; older providers cannot do without the field, so it is always set."""
        response = pb.GetMetadataResponse()
        put_fields(response.metadata, self._contexts.values)
        return response

    @contextlib.contextmanager
    def _payload(self, flag_set: str) -> Iterator[Payload]:
        """Give the set's payload, which is kept while somebody uses it."""
        payload = self._sets.get(flag_set)
        if payload is None:
            values = self._contexts.values
            payload = self._sets[flag_set] = Payload(flag_set, self._near, self._reader, self._rendered, values)
            self._near.changelogs.listen(flag_set, payload.note)
        payload.users += 1
        try:
            yield payload
        finally:
            payload.users -= 1
            if not payload.users:
                del self._sets[flag_set]
                self._near.changelogs.unlisten(flag_set, payload.note)

    def _rendered(self, flag: Flag) -> str:
        """Give a flag's definition; one that providers would stumble over is told in the log, once."""
        held = self._near.get(flag.id)
        prepared = held.prepared if held is not None and held.entry.flag is flag else self._prepare(flag)
        text, problem = definition_of(flag, prepared)
        if problem and self._told.get(flag.id) != flag.revision:
            self._told[flag.id] = flag.revision
            log.warning(
                "a broken flag is handed out as disabled", flag=flag.key, flag_set=flag.flag_set, problem=problem
            )
        return text
