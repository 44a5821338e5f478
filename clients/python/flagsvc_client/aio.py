"""The client for asyncio. Each method asks `calls` for the request and for what the answer says."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

import grpc
import grpc.aio

from flagsvc_client import calls
from flagsvc_client._engine.model import Flag
from flagsvc_client.calls import HistoryEntry, Number, Seconds, WriteLevel, Written
from flagsvc_client.channel import channel_options, checked_target, forks, open_channel
from flagsvc_client.details import Context, EvaluationDetails, JsonValue
from flagsvc_client.errors import FlagServiceError
from flagsvc_client.events import ClientEvent, State
from flagsvc_client.flags import flag_of
from flagsvc_client.locally import STALENESS_BOUND_S, following_of
from flagsvc_client.stubs.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc_client.stubs.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc
from flagsvc_client.watching import SILENCE_S, Backoff, Watched, watched

if TYPE_CHECKING:
    from flagsvc_client.following import AioFollower

T = TypeVar("T")
# A loop that was closed, a channel that was: whatever keeps a call from being sent.
_TROUBLE = (grpc.RpcError, FlagServiceError, RuntimeError, grpc.aio.UsageError)


class _Connection(NamedTuple):
    """A channel belongs to the loop and the process that it was made in."""

    loop: asyncio.AbstractEventLoop
    forks: int
    channel: grpc.aio.Channel
    stub: Any


class FlagClient:
    """Feature flags for asyncio. Waits for nothing when it is made, connects when it is first used.

    `target`: HOST:PORT or a gRPC target such as `dns:///flagsvc:8013`. `timeout_s`: of each call. `raise_errors`: an
    evaluation that fails raises FlagServiceError; else the caller's default stands. `actor`: who writes, for the
    history. `options`: further gRPC channel options.

    `local`: hold the flag set and evaluate here, without a call; `snapshot_file` keeps the last known set for the next
    start, answers are STALE when the server was not heard for `staleness_bound_s` seconds, `on_event` hears of it.
    """

    def __init__(
        self,
        target: str,
        *,
        flag_set: str = "default",
        timeout_s: Seconds = calls.TIMEOUT_S,
        raise_errors: bool = False,
        credentials: grpc.ChannelCredentials | None = None,
        actor: str = "",
        local: bool = False,
        snapshot_file: str | os.PathLike[str] | None = None,
        staleness_bound_s: Seconds = STALENESS_BOUND_S,
        on_event: Callable[[ClientEvent], None] | None = None,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        self._target, self._credentials = checked_target(target), credentials
        self._options = channel_options(options)
        self._session = calls.Session(flag_set, timeout_s, actor, raise_errors=raise_errors)
        self._connection: _Connection | None = None
        self._closed = False
        self._following = following_of(flag_set, staleness_bound_s, snapshot_file, on_event) if local else None
        self._follower: AioFollower | None = None
        with contextlib.suppress(RuntimeError):  # without a loop it is begun when it is first used
            self._follow()

    async def is_enabled(
        self,
        key: str,
        context: Context = None,
        default: bool = False,
        *,
        min_revision: int = 0,
        timeout_s: Seconds | None = None,
    ) -> bool:
        """Whether the flag is ENABLED and true for this context; the default where that cannot be found out.

        An unknown flag is off, as the existing system has it.
        """
        calls.check_default(default, bool)
        session = self._session
        try:
            if (held := self._locally(key, context, None, min_revision)) is not None:
                return session.enabled(session.checked(held), default)
            request = session.evaluation(key, context, calls.ANY_TYPE, min_revision)
            response = await self._answer(self._stub.EvaluateFlag(request, timeout=timeout_s or session.timeout_s))
        except _TROUBLE as error:
            return session.failed(key, default, error).value
        found = response.evaluation
        return session.enabled(session.answered(found, default), default) if found.error_code else found.enabled

    async def details(
        self, key: str, context: Context = None, *, default: T, min_revision: int = 0, timeout_s: Seconds | None = None
    ) -> EvaluationDetails[T]:
        """Evaluate a flag that has values of the default's type, and tell how the value came about."""
        wanted, session = calls.wanted_type(default), self._session
        try:
            if (held := self._locally(key, context, default, min_revision)) is not None:
                return session.checked(held)
            request = session.evaluation(key, context, wanted, min_revision)
            response = await self._answer(self._stub.EvaluateFlag(request, timeout=timeout_s or session.timeout_s))
        except _TROUBLE as error:
            return session.failed(key, default, error)
        return session.answered(response.evaluation, default)

    async def boolean(
        self,
        key: str,
        context: Context = None,
        *,
        default: bool,
        min_revision: int = 0,
        timeout_s: Seconds | None = None,
    ) -> bool:
        """Evaluate a flag of booleans."""
        calls.check_default(default, bool)
        found = await self.details(key, context, default=default, min_revision=min_revision, timeout_s=timeout_s)
        return found.value

    async def string(
        self,
        key: str,
        context: Context = None,
        *,
        default: str,
        min_revision: int = 0,
        timeout_s: Seconds | None = None,
    ) -> str:
        """Evaluate a flag of texts."""
        calls.check_default(default, str)
        found = await self.details(key, context, default=default, min_revision=min_revision, timeout_s=timeout_s)
        return found.value

    async def integer(
        self,
        key: str,
        context: Context = None,
        *,
        default: int,
        min_revision: int = 0,
        timeout_s: Seconds | None = None,
    ) -> int:
        """Evaluate a flag of whole numbers."""
        calls.check_default(default, int)
        found = await self.details(key, context, default=default, min_revision=min_revision, timeout_s=timeout_s)
        return found.value

    async def float(
        self,
        key: str,
        context: Context = None,
        *,
        default: Number,
        min_revision: int = 0,
        timeout_s: Seconds | None = None,
    ) -> Number:
        """Evaluate a flag of numbers."""
        calls.check_default(default, float)
        found = await self.details(
            key, context, default=calls.as_float(default), min_revision=min_revision, timeout_s=timeout_s
        )
        return found.value

    async def object(
        self,
        key: str,
        context: Context = None,
        *,
        default: Mapping[str, JsonValue],
        min_revision: int = 0,
        timeout_s: Seconds | None = None,
    ) -> Mapping[str, JsonValue]:
        """Evaluate a flag of objects."""
        calls.check_default(default, dict)
        found = await self.details(key, context, default=default, min_revision=min_revision, timeout_s=timeout_s)
        return found.value

    async def batch(
        self,
        keys: Iterable[str] = (),
        context: Context = None,
        *,
        min_revision: int = 0,
        timeout_s: Seconds | None = None,
    ) -> dict[str, EvaluationDetails[JsonValue]]:
        """Evaluate several flags for one context, or all of the set; a flag without a value has None."""
        keys, session = list(keys), self._session
        try:
            if (held := self._batch_locally(keys, context, min_revision)) is not None:
                return {key: session.checked(details) for key, details in held.items()}
            request = session.batch(keys, context, min_revision)
            response = await self._answer(
                self._stub.BatchEvaluateFlags(request, timeout=timeout_s or session.timeout_s)
            )
        except _TROUBLE as error:
            return {key: session.failed(key, None, error) for key in keys} or session.failed_batch(error)
        return {found.flag_key: session.answered(found, None) for found in response.evaluations}

    async def flag(self, key: str) -> Flag:
        """Read one definition. Raises FlagServiceError, NOT_FOUND where there is none."""
        return flag_of((await self._call("GetFlag", self._session.reading(key))).flag)

    async def flags(self) -> list[Flag]:
        """Read all definitions of the set by sort order, then key. Raises FlagServiceError."""
        request, flags = pb.ListFlagsRequest(flag_set=self._session.flag_set, page_size=calls.PAGE), list[Flag]()
        while True:
            page = await self._call("ListFlags", request)
            flags += map(flag_of, page.flags)
            if not page.next_page_token:
                return flags
            request.page_token = page.next_page_token

    async def history(self, key: str, limit: int = 50) -> list[HistoryEntry]:
        """Read a flag's newest changes, newest first. Raises FlagServiceError."""
        request = pb.ListFlagHistoryRequest(flag_key=key, flag_set=self._session.flag_set, page_size=limit)
        return [calls.history_of(entry) for entry in (await self._call("ListFlagHistory", request)).entries]

    async def create(
        self, flag: Flag, *, reason: str = "", wait_for: WriteLevel | None = None, wait_timeout_s: Seconds | None = None
    ) -> Written:
        """Create a flag; its set is the client's. Raises FlagServiceError."""
        request = self._session.creation(flag)
        return await self._write("CreateFlag", request, reason, wait_for, wait_timeout_s)

    async def update(
        self,
        flag: Flag,
        fields: Iterable[str],
        *,
        etag: str = "",
        reason: str = "",
        wait_for: WriteLevel | None = None,
        wait_timeout_s: Seconds | None = None,
    ) -> Written:
        """Change the named fields to what they are in `flag`. Raises FlagServiceError, ABORTED for an older etag."""
        request = self._session.updating(flag, fields, etag)
        return await self._write("UpdateFlag", request, reason, wait_for, wait_timeout_s)

    async def toggle(
        self,
        key: str,
        enabled: bool,
        *,
        etag: str = "",
        reason: str = "",
        wait_for: WriteLevel | None = None,
        wait_timeout_s: Seconds | None = None,
    ) -> Written:
        """Switch a flag on or off. Raises FlagServiceError."""
        request = pb.ToggleFlagRequest(flag_key=key, flag_set=self._session.flag_set, enabled=enabled, etag=etag)
        return await self._write("ToggleFlag", request, reason, wait_for, wait_timeout_s)

    async def delete(
        self,
        key: str,
        *,
        etag: str = "",
        reason: str = "",
        wait_for: WriteLevel | None = None,
        wait_timeout_s: Seconds | None = None,
    ) -> Written:
        """Delete a flag; its history stays. Raises FlagServiceError."""
        request = pb.DeleteFlagRequest(flag_key=key, flag_set=self._session.flag_set, etag=etag)
        return await self._write("DeleteFlag", request, reason, wait_for, wait_timeout_s)

    @property
    def state(self) -> State:
        """How a local client stands; one that asks the server for everything is always ready."""
        return self._following.events.state if self._following is not None else "ready"

    @property
    def ready(self) -> bool:
        """Whether answers are up to date."""
        return self.state == "ready"

    def listen(self, told: Callable[[ClientEvent], None]) -> Callable[[], None]:
        """Tell of a local client's events; gives what takes that back."""
        return self._following.events.listen(told) if self._following is not None else lambda: None

    async def wait_ready(self, timeout_s: Seconds = 5.0) -> bool:
        """Wait until answers are up to date; gives whether they are."""
        self._follow()
        became = asyncio.Event()
        with self._listening(lambda _: became.set() if self.ready else None), contextlib.suppress(TimeoutError):
            if not self.ready:
                await asyncio.wait_for(became.wait(), timeout_s)
        return self.ready

    async def watch(self) -> AsyncIterator[Watched]:
        """Follow the set for ever: a snapshot, then changes. A stream that breaks, ends or falls silent is resumed."""
        backoff, resume = Backoff(), 0
        while not self._closed:
            try:
                stream = self._stub.WatchFlags(self._session.watching(resume))
                try:
                    while True:
                        message = await self._answer(asyncio.wait_for(stream.read(), SILENCE_S))
                        if message is grpc.aio.EOF:
                            break
                        backoff.worked()
                        resume = message.resume_revision or resume
                        if (event := watched(message)) is not None:
                            yield event
                finally:
                    stream.cancel()
            except (*_TROUBLE, TimeoutError) as error:
                if self._closed:
                    return
                self._session.interrupted(error)
            await asyncio.sleep(backoff.pause_s())

    async def close(self) -> None:
        """Let go of the connection; the client cannot be used any more."""
        self._closed = True
        if self._follower is not None:
            await self._follower.close()
        connection, self._connection = self._connection, None
        if connection is not None and connection.loop is asyncio.get_running_loop():
            await connection.channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: builtins.object) -> None:
        await self.close()

    @property
    def _stub(self) -> Any:
        """The stub of the running loop's channel. Raises FlagServiceError where the client cannot be used."""
        connection = self._connection
        if connection is None:
            connection = self._connect()
        elif connection.loop is not asyncio.get_running_loop() or connection.forks != forks():
            raise calls.unusable("it was used in another event loop or before a fork: make one where it is used")
        return connection.stub

    async def _answer(self, call: Awaitable[Any]) -> Any:
        """Wait for a call. Closing the client cancels it: that is a failure, and no cancellation of who waits."""
        try:
            return await call
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise calls.unusable("it is closed") from None
            raise

    def _connect(self) -> _Connection:
        if self._closed:
            raise calls.unusable("it is closed")
        channel = open_channel(grpc.aio, self._target, self._credentials, self._options)
        stub = pb_grpc.FlagServiceStub(channel)
        self._connection = _Connection(asyncio.get_running_loop(), forks(), channel, stub)
        return self._connection

    @contextlib.contextmanager
    def _listening(self, told: Callable[[ClientEvent], None]) -> Iterator[None]:
        forget = self.listen(told)
        try:
            yield
        finally:
            forget()

    def _locally(self, key: str, context: Context, default: T, min_revision: int) -> EvaluationDetails[T] | None:
        """Evaluate here; None where that cannot be."""
        if self._following is None:
            return None
        self._follow()
        return self._following.local.details(key, context, default, min_revision)

    def _batch_locally(
        self, keys: Iterable[str], context: Context, min_revision: int
    ) -> dict[str, EvaluationDetails[JsonValue]] | None:
        """Evaluate several here; None where that cannot be."""
        if self._following is None:
            return None
        keys = keys or self._following.local.keys()
        return calls.all_of({key: self._locally(key, context, None, min_revision) for key in keys})

    def _follow(self) -> None:
        """Begin to follow the set, if that is to be and is not done."""
        if self._follower is None and self._following is not None and not self._closed:
            asyncio.get_running_loop()
            from flagsvc_client.following import AioFollower  # noqa: PLC0415  an extra

            self._follower = AioFollower(self._following, self._watch_stream)

    def _watch_stream(self, resume: int) -> Any:
        return self._stub.WatchFlags(self._session.watching(resume))

    async def _call(self, method: str, request: Any, timeout_s: Seconds | None = None) -> Any:
        try:
            timeout_s = timeout_s or self._session.timeout_s
            return await self._answer(getattr(self._stub, method)(request, timeout=timeout_s))
        except _TROUBLE as error:
            raise calls.error_of(error) from None

    async def _write(
        self, method: str, request: Any, reason: str, wait_for: WriteLevel | None, wait_timeout_s: Seconds | None
    ) -> Written:
        told = self._session.told(request, reason, wait_for, wait_timeout_s)
        written = self._session.wrote(await self._call(method, told, self._session.write_timeout_s(wait_timeout_s)))
        if self._following is not None:
            self._following.wrote(calls.key_of(request), written.flag, written.revision)
        return written
