"""The client for asyncio. It is also the source of the synchronous client: after a change run `make sync-client`.

`session` builds the requests and decides what a failure means. `transport` sends, waits and closes.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Self, TypeVar

import grpc

from flagsvc_client.access import Tls, Token, access_for
from flagsvc_client.client_events import ClientEvent, State
from flagsvc_client.default_values import ANY_TYPE, as_float, check_default, expected_type
from flagsvc_client.details import Context, EvaluationDetails, JsonValue
from flagsvc_client.errors import FlagServiceError
from flagsvc_client.following.aio import AsyncFollower, wait_for_answer
from flagsvc_client.hooks import Hook
from flagsvc_client.local import STALENESS_BOUND_S, open_local
from flagsvc_client.revisions.aio import AsyncRevisions
from flagsvc_client.rollouts.aio import AsyncRollouts
from flagsvc_client.schedules.aio import AsyncSchedules
from flagsvc_client.segments.aio import AsyncSegments
from flagsvc_client.session import CALL_TIMEOUT_S, Session
from flagsvc_client.substitutes import SUBSTITUTES, substituted, substituted_keys
from flagsvc_client.transport.aio import Transport
from flagsvc_client.transport.backoff import Backoff
from flagsvc_client.transport.channel import channel_options, checked_target
from flagsvc_client.watch_events import SnapshotPages, WatchEvent, watch_event_of

T = TypeVar("T")


class AsyncFlagClient(AsyncRevisions, AsyncSchedules, AsyncRollouts, AsyncSegments):
    """Feature flags for asyncio. The constructor does not block; the first call connects.

    `target`: HOST:PORT or a gRPC target such as `dns:///flagsvc:8013`. `timeout_s`: deadline of each call.
    It can be used in several event loops, one after the other or each in its thread, and be opened again after `close`.
    `raise_errors`: raise FlagServiceError when an evaluation fails; otherwise return the caller's default.
    `on_behalf_of`: for whom writes are made, unless a write says so itself. `options`: further gRPC channel options.
    `hooks`: functions that get each evaluation, for telemetry.

    `tls`: True for a server whose certificate is of a public CA, else `Tls`; `credentials`: gRPC's, in its place.
    `token`: sent with every call; a text, `TokenFile`, or a function that returns it without waiting. In plain text it
    is sent to this machine only, unless `plaintext_token` says that the network encrypts.

    `local`: keep a copy of the flag set in this process and evaluate from it, without a call. `snapshot_file`: saves
    the copy for the next start. `staleness_bound_s`: seconds without a message from the server after which answers
    are STALE. `on_event`: receives the local copy's events.

    `wait_ready_s`: how long to wait for the server at the start: `async with` and `open` do, and so do evaluations as
    long as the local copy is empty. Then evaluations return the default.
    """

    def __init__(
        self,
        target: str,
        *,
        flag_set: str = "default",
        timeout_s: float = CALL_TIMEOUT_S,
        raise_errors: bool = False,
        credentials: grpc.ChannelCredentials | None = None,
        tls: Tls | bool = False,
        token: Token | None = None,
        plaintext_token: bool = False,
        on_behalf_of: str = "",
        local: bool = False,
        wait_ready_s: float = 0.0,
        snapshot_file: str | os.PathLike[str] | None = None,
        staleness_bound_s: float = STALENESS_BOUND_S,
        on_event: Callable[[ClientEvent], None] | None = None,
        hooks: Sequence[Hook] = (),
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        self._session = Session(flag_set, timeout_s, on_behalf_of, raise_errors=raise_errors, hooks=hooks)
        access = access_for(
            checked_target(target), credentials=credentials, tls=tls, token=token, plaintext_token=plaintext_token
        )
        self._new_transport = partial(
            Transport, target, access, channel_options((*access.options, *options)), timeout_s
        )
        self._transport = self._new_transport()
        self._local = open_local(flag_set, staleness_bound_s, snapshot_file, on_event) if local else None
        self._follower = AsyncFollower(self._session, self._local, wait_ready_s) if self._local is not None else None
        self._is_starting, self._wait_ready_s = local, wait_ready_s
        self._start_updating()

    async def is_enabled(
        self,
        key: str,
        context: Context = None,
        default: bool = False,
        *,
        min_revision: int = 0,
        timeout_s: float | None = None,
    ) -> bool:
        """Whether the flag is ENABLED and true for this context; the default if that cannot be determined.

        An unknown flag is off, as in the existing system.
        """
        check_default(default, bool)
        session = self._session
        try:
            if self._is_starting:
                await self._wait_for_flags()
            if (local := self._evaluate_locally(key, context, None, min_revision)) is not None:
                return session.is_enabled(session.checked(local, context), default)
            request = session.evaluate_request(key, context, ANY_TYPE, min_revision)
            response = await self._transport.call("EvaluateFlag", request, timeout_s)
        except FlagServiceError as error:
            return session.failed(key, default, error, context).value
        return session.is_enabled(session.details_of(response.evaluation, None, context), default)

    async def details(
        self, key: str, context: Context = None, *, default: T, min_revision: int = 0, timeout_s: float | None = None
    ) -> EvaluationDetails[T]:
        """Evaluate a flag whose values have the default's type; the result says how the value came about."""
        value_type, session = expected_type(default), self._session
        try:
            if self._is_starting:
                await self._wait_for_flags()
            if (local := self._evaluate_locally(key, context, default, min_revision)) is not None:
                return session.checked(local, context)
            request = session.evaluate_request(key, context, value_type, min_revision)
            response = await self._transport.call("EvaluateFlag", request, timeout_s)
        except FlagServiceError as error:
            return session.failed(key, default, error, context)
        return session.details_of(response.evaluation, default, context)

    async def get_bool(
        self, key: str, context: Context = None, *, default: bool, min_revision: int = 0, timeout_s: float | None = None
    ) -> bool:
        """Evaluate a boolean flag."""
        check_default(default, bool)
        found = await self.details(key, context, default=default, min_revision=min_revision, timeout_s=timeout_s)
        return found.value

    async def get_str(
        self, key: str, context: Context = None, *, default: str, min_revision: int = 0, timeout_s: float | None = None
    ) -> str:
        """Evaluate a string flag."""
        check_default(default, str)
        found = await self.details(key, context, default=default, min_revision=min_revision, timeout_s=timeout_s)
        return found.value

    async def get_int(
        self, key: str, context: Context = None, *, default: int, min_revision: int = 0, timeout_s: float | None = None
    ) -> int:
        """Evaluate an integer flag."""
        check_default(default, int)
        found = await self.details(key, context, default=default, min_revision=min_revision, timeout_s=timeout_s)
        return found.value

    async def get_float(
        self,
        key: str,
        context: Context = None,
        *,
        default: float,
        min_revision: int = 0,
        timeout_s: float | None = None,
    ) -> float:
        """Evaluate a number flag; whole numbers are converted to float."""
        check_default(default, float)
        number = as_float(default)
        found = await self.details(key, context, default=number, min_revision=min_revision, timeout_s=timeout_s)
        return found.value

    async def get_object(
        self,
        key: str,
        context: Context = None,
        *,
        default: Mapping[str, JsonValue],
        min_revision: int = 0,
        timeout_s: float | None = None,
    ) -> Mapping[str, JsonValue]:
        """Evaluate an object flag."""
        check_default(default, dict)
        found = await self.details(key, context, default=default, min_revision=min_revision, timeout_s=timeout_s)
        return found.value

    async def batch(
        self,
        keys: Iterable[str] = (),
        context: Context = None,
        *,
        min_revision: int = 0,
        timeout_s: float | None = None,
    ) -> dict[str, EvaluationDetails[JsonValue]]:
        """Evaluate several flags for one context; without keys all flags of the set. No value: None."""
        keys, session = list(keys), self._session
        try:
            if self._is_starting:
                await self._wait_for_flags()
            if (local := self._batch_locally(keys, context, min_revision)) is not None:
                return {key: session.checked(details, context) for key, details in local.items()}
            request = session.batch_request(keys, context, min_revision)
            response = await self._transport.call("BatchEvaluateFlags", request, timeout_s)
        except FlagServiceError as error:
            return session.failed_batch(keys, error, context)
        return {found.flag_key: session.details_of(found, None, context) for found in response.evaluations}

    @property
    def state(self) -> State:
        """The state of the local copy, "ready" without one; "closed" after `close`."""
        if self._transport.closed:
            return "closed"
        return self._local.events.state if self._local is not None else "ready"

    @property
    def ready(self) -> bool:
        """Whether the local copy is up to date; without one, whether the client is open."""
        return self.state == "ready"

    @property
    def is_local(self) -> bool:
        """Whether evaluations come from a local copy, and make no call."""
        return self._local is not None

    def listen(self, listener: Callable[[ClientEvent], None]) -> Callable[[], None]:
        """Call `listener` for each event of the local copy; returns a function that removes it."""
        return self._local.events.listen(listener) if self._local is not None else lambda: None

    async def wait_ready(self, timeout_s: float = 5.0) -> bool:
        """Wait until the server's flags are here, or without `local` until it answers; returns whether that is so.

        False at once for a closed client, and for one that the server refuses.
        """
        if self._follower is None:
            return await wait_for_answer(self._transport, self._session, timeout_s)
        return await self._follower.wait_ready(self._transport, timeout_s)

    async def watch(self) -> AsyncIterator[WatchEvent]:
        """Follow the flag set until the client is closed: a snapshot, then changes.

        A stream that breaks, ends or falls silent is opened again, and resumes where it was.
        """
        transport, backoff, resume_revision = self._transport, Backoff(), 0
        while not transport.closed:
            try:
                async with aclosing(transport.messages(self._session.watch_request(resume_revision))) as messages:
                    pages = SnapshotPages()
                    async for page in messages:
                        backoff.reset()
                        if (message := pages.add(page)) is None:
                            continue
                        resume_revision = message.resume_revision or resume_revision
                        if (event := watch_event_of(message)) is not None:
                            yield event
            except FlagServiceError as error:
                if not transport.closed:
                    self._session.watch_interrupted(error)
            await transport.sleep(backoff.next_delay_s())

    async def open(self) -> None:
        """Open the client again if it was closed, and wait for the server, up to `wait_ready_s`."""
        if self._transport.closed:
            self._transport = self._new_transport()
        self._start_updating()
        if self._wait_ready_s > 0:
            await self.wait_ready(self._wait_ready_s)

    async def close(self) -> None:
        """Close the connection and end all calls and watches. `open` and `async with` open the client again."""
        await self._transport.close()
        if self._local is not None:
            await self._transport.run_blocking(self._local.save)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _evaluate_locally(
        self, key: str, context: Context, default: T, min_revision: int
    ) -> EvaluationDetails[T] | None:
        """Evaluate from the local copy; None if there is none, or it may not have the revision yet."""
        if SUBSTITUTES and (found := substituted(key, context, default)) is not None:
            return found
        if self._local is None:
            return None
        if not self._transport.running:
            self._start_updating()
        return self._local.flags.details(key, context, default, min_revision)

    def _batch_locally(
        self, keys: Iterable[str], context: Context, min_revision: int
    ) -> dict[str, EvaluationDetails[JsonValue]] | None:
        """Evaluate all from the local copy; None if one of them cannot be."""
        if not keys and SUBSTITUTES:
            keys = substituted_keys() or ()
        if not keys and self._local is not None:
            keys = self._local.flags.keys()
        if self._local is None and not (keys and SUBSTITUTES):
            return None
        found = {key: self._evaluate_locally(key, context, None, min_revision) for key in keys}
        known = {key: details for key, details in found.items() if details is not None}
        return known if len(known) == len(found) else None

    async def _wait_for_flags(self) -> None:
        """Wait for the local copy's first flags, up to `wait_ready_s` after the start."""
        if self._follower is not None and not SUBSTITUTES:
            await self._follower.wait_for_flags(self._transport)
            self._is_starting = not self._follower.local.flags.complete

    def _start_updating(self) -> None:
        """Keep the local copy up to date from now on, if there is one and its tasks can be started."""
        if self._follower is not None:
            self._follower.start(self._transport)
