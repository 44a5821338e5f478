"""What callers have open: streams, and calls that wait. Each ends when its caller may not have it any more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from flagsvc.core.access.decision import authorize
from flagsvc.core.access.identity import Identity
from flagsvc.core.access.roles import Role
from flagsvc.core.errors import FlagsvcError, PermissionDenied, RightsChanged, Unauthenticated

T = TypeVar("T")
ENDED = "the credential was revoked, replaced or disabled, or it has expired"


def sees_as_much(caller: Identity, before: Identity) -> bool:
    """Whether what a stream shows to a caller is what it showed before its rights changed."""
    return caller.is_of_the_public == before.is_of_the_public


@dataclass(eq=False, slots=True)
class Session:
    """One call. `flag_sets`: those that it is about, once its message is read. `refusal`: why it was ended.

    `is_cancellable`: the task waits for nothing of the transport, which would lose the refusal.
    """

    caller: Identity
    role: Role
    task: asyncio.Task[object]
    flag_sets: tuple[str, ...] = ()
    refusal: FlagsvcError | None = None
    is_cancellable: bool = True

    def check(self) -> None:
        """Raise why the call was ended, if it was."""
        if self.refusal is not None:
            raise self.refusal

    async def endable(self, messages: AsyncIterator[T]) -> AsyncIterator[T]:
        """Yield a stream's messages. It is ended while it waits for the next one, else once that has been sent."""
        while True:
            self.check()
            self.is_cancellable = True
            try:
                message = await anext(messages)
            except StopAsyncIteration:
                return
            finally:
                self.is_cancellable = False
            yield message
            del message  # a stream lives long, and holds nothing that it has sent


class Sessions:
    """Everything that is open. `current` returns a caller as it is now; None if its credential is no longer valid."""

    def __init__(self, current: Callable[[Identity], Identity | None], forget: Callable[[], object]) -> None:
        """`forget`: called when rights may have changed, before anything is checked."""
        self._current, self._forget = current, forget
        self._open: set[Session] = set()
        self.ended = self.changes = 0
        """`changes`: how often the rights of callers may have changed."""

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def open(self, caller: Identity, role: Role) -> Iterator[Session]:
        """Register the call that runs in this task, for the length of a `with` block. Raises why it was ended."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  a call runs in a task
        session = Session(caller, role, task)
        self._open.add(session)
        try:
            yield session
        except asyncio.CancelledError:
            if session.refusal is None:
                raise  # the caller left, or the server stops
            task.uncancel()
            raise session.refusal from None
        finally:
            self._open.discard(session)

    def check_all(self) -> None:
        """End what is not allowed any more. Call it when rights have changed, in the same step."""
        self.changes += 1
        self._forget()
        for session in list(self._open):
            self._check(session)

    def check_expired(self) -> None:
        """End what belongs to expired callers. Cheap enough to call several times a second."""
        now = time.time()
        for session in [each for each in self._open if each.caller.expires_at <= now]:
            self._check(session)

    def _check(self, session: Session) -> None:
        caller = self._current(session.caller)
        if caller is session.caller:
            return  # as nearly always: there may be thousands, and a change is of one caller
        try:
            refusal: FlagsvcError = Unauthenticated(ENDED)
            if caller is not None:
                authorize(caller, session.role, session.flag_sets)
                if caller.scope.includes(session.caller.scope) and sees_as_much(caller, session.caller):
                    session.caller = caller
                    return
                refusal = RightsChanged()  # it may follow other flag sets, too
        except PermissionDenied as denied:
            refusal = denied
        if session.refusal is None:
            session.refusal = refusal
            self.ended += 1
            if session.is_cancellable:
                session.task.cancel()
