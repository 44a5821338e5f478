"""Callers with tokens of their own, which are revoked, disabled, narrowed and rotated while everything else goes on."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

import grpc
from google.protobuf import duration_pb2, field_mask_pb2

from flagsvc.generated.flagd.evaluation.v1 import evaluation_pb2 as v1
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import token_service_pb2 as tokens
from flagsvc.generated.flagsvc.v1 import token_service_pb2_grpc as tokens_grpc
from tests.access.callers import bearer
from tests.faults.attempts import (
    ACCEPTED,
    EVALUATE,
    FAILED,
    READ,
    REFUSED,
    Attempt,
    Credential,
    OpenStream,
    TokenChange,
)
from tests.faults.load import failure
from tests.faults.record import Record
from tests.faults.replica import Replica

LIVES_A_SECOND = 1.5
"""Tokens that are made and ended, where the whole load is applied."""
WAYS = ("RevokeToken", "RevokeToken", "disable", "narrow", "RotateToken")
"""How a token, or one secret of it, ends."""
FLAG = "plain-00"
_STREAMS: Sequence[tuple[str, Any]] = (
    ("/flagsvc.v1.FlagService/WatchFlags", pb.WatchFlagsRequest()),
    ("/flagd.evaluation.v1.Service/EventStream", v1.EventStreamRequest()),
)
_USED_S = (0.2, 1.5)
_TRIED_AFTER_S = ((0.0, (EVALUATE, READ)), (0.3, (EVALUATE,)), (1.05, (EVALUATE, READ)), (5.2, (EVALUATE, READ)))
"""How long after its end a credential is tried again on every replica, and with which calls."""
_TRIED_AGAIN_S = 0.5
_END_TRIES, _AFTER_FAILURE_S = 4, 1.0
_DEADLINE_S, _CHANGE_DEADLINE_S, _WAIT_S = 3.0, 10.0, 2
_UNKNOWN = "ACCESS_UNKNOWN"
_REFUSALS = ("UNAUTHENTICATED", "PERMISSION_DENIED")
_DEFAULT, _ELSEWHERE = ("default",), ("elsewhere",)


class Callers:
    """Goes on until its tasks are cancelled. `share`: of the load."""

    def __init__(self, record: Record, replicas: list[Replica], seed: int, share: float) -> None:
        self._story, self._replicas, self._share = record.story, replicas, share
        self._random = random.Random(seed)
        self._texts: dict[int, str] = {}
        self._stopping = False
        self._under_way: set[asyncio.Task[None]] = set()
        self._streams: set[asyncio.Task[None]] = set()
        self._errors: list[BaseException] = []
        self._endless: list[asyncio.Task[None]] = []

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """Everything that is under way."""
        return [*self._endless, *self._under_way, *self._streams]

    def start(self) -> None:
        """Begin."""
        self._endless = [asyncio.create_task(each) for each in (self._begin_lives(), self._try_again())]

    async def stop(self) -> None:
        """Make no more tokens, and wait for changes in progress; then leave the streams."""
        self._stopping = True
        while self._under_way:
            await asyncio.wait(self._under_way)
        for task in (*self._endless, *self._streams):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        if self._errors:
            raise self._errors[0]

    async def _begin_lives(self) -> None:
        while not self._stopping:
            await asyncio.sleep(self._random.uniform(0.5, 1.5) / LIVES_A_SECOND / self._share)
            self._spawn(self._life())

    async def _try_again(self) -> None:
        """Try ended credentials again and again: none may come back."""
        while not self._stopping:
            await asyncio.sleep(_TRIED_AGAIN_S / self._share)
            ended = [each for each in self._story.credentials if each.ended_by]
            for replica in self._ready():
                if ended:
                    kind = self._random.choice((EVALUATE, READ))
                    self._spawn(self._try(self._random.choice(ended), replica, kind))

    async def _life(self) -> None:
        """Make a token, use it, end it, and try whether it is refused."""
        credential = await self._create()
        while credential is not None and not self._stopping:
            await self._try_everywhere(credential, (EVALUATE, READ))
            if self._random.random() < 0.5:
                self._open_streams(credential)
            await asyncio.sleep(self._random.uniform(*_USED_S))
            await self._try_everywhere(credential, (EVALUATE,))
            way = self._random.choice(WAYS)
            successor = await self._end(credential, way)
            if credential.ended_by:
                self._spawn(self._after(credential))
            credential = successor

    async def _after(self, credential: Credential) -> None:
        ended_at = time.monotonic()
        for after_s, kinds in _TRIED_AFTER_S:
            await asyncio.sleep(max(0.0, ended_at + after_s - time.monotonic()))
            if self._stopping and after_s:
                return
            await self._try_everywhere(credential, kinds)

    async def _create(self) -> Credential | None:
        token = tokens.Token(name="a caller", role=tokens.ROLE_READ, flag_sets=_DEFAULT)
        asked = await self._change("CreateToken", tokens.CreateTokenRequest(token=token))
        return None if asked is None else self._made(*asked)

    def _made(self, change: TokenChange, answer: Any) -> Credential:
        """Record the secret in an answer."""
        credential = Credential(len(self._story.credentials) + 1, answer.token.id, change.number)
        change.token = answer.token.id
        self._texts[credential.number] = answer.secret
        self._story.credentials.append(credential)
        return credential

    async def _end(self, credential: Credential, way: str) -> Credential | None:
        """End a credential; where an answer is lost, once more. Return the one that replaces it, if any."""
        token_id, mask = credential.token, field_mask_pb2.FieldMask
        requests = {
            "RevokeToken": tokens.RevokeTokenRequest(id=token_id),
            "RotateToken": tokens.RotateTokenRequest(id=token_id, overlap=duration_pb2.Duration()),
            "disable": tokens.UpdateTokenRequest(
                token=tokens.Token(id=token_id, disabled=True), update_mask=mask(paths=["disabled"])
            ),
            "narrow": tokens.UpdateTokenRequest(
                token=tokens.Token(id=token_id, flag_sets=_ELSEWHERE), update_mask=mask(paths=["flag_sets"])
            ),
        }
        method = way if way in {"RevokeToken", "RotateToken"} else "UpdateToken"
        for _ in range(_END_TRIES):
            credential.end_asked = min(credential.end_asked, time.monotonic())
            asked = await self._change(method, requests[way], token_id)
            if asked is not None:
                change, answer = asked
                credential.ended_by = change.number
                return self._made(change, answer) if method == "RotateToken" else None
            await asyncio.sleep(_AFTER_FAILURE_S)
        return None

    async def _change(self, method: str, request: Any, token_id: str = "") -> tuple[TokenChange, Any] | None:
        """Ask some replica for a change; None if its answer was lost."""
        ready = self._ready()
        if not ready:
            return None
        replica = self._random.choice(ready)
        incarnation = replica.incarnation
        request.wait_for = self._random.choice((pb.WRITE_LEVEL_CACHED, *[pb.WRITE_LEVEL_APPLIED] * 3))
        request.wait_timeout.seconds = _WAIT_S
        change = TokenChange(len(self._story.token_changes) + 1, method, token_id, incarnation.number, time.monotonic())
        self._story.token_changes.append(change)
        call = getattr(tokens_grpc.TokenServiceStub(replica.channel), method)
        try:
            answer = await call(request, metadata=replica.access.root, timeout=_CHANGE_DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            self._story.failures.append(failure(method, change.start, incarnation, error, token_id))
            return None
        change.end, change.acknowledged = time.monotonic(), True
        spread = answer.spread
        change.reached, change.applied_by, change.lagging = (
            spread.reached,
            list(spread.applied_by),
            list(spread.lagging),
        )
        return change, answer

    async def _try_everywhere(self, credential: Credential, kinds: Iterable[str]) -> None:
        await asyncio.gather(*(self._try(credential, each, kind) for each in self._ready() for kind in kinds))

    async def _try(self, credential: Credential, replica: Replica, kind: str) -> None:
        incarnation, start = replica.incarnation, time.monotonic()
        headers = bearer(self._texts[credential.number])
        outcome = ACCEPTED
        try:
            if kind == EVALUATE:
                evaluate = pb.EvaluateFlagRequest(flag_key=FLAG)
                await replica.stub.EvaluateFlag(evaluate, metadata=headers, timeout=_DEADLINE_S)
            else:
                await replica.stub.GetFlag(pb.GetFlagRequest(flag_key=FLAG), metadata=headers, timeout=_DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            outcome = REFUSED if error.code().name in _REFUSALS else FAILED
            failed = failure(kind, start, incarnation, error, FLAG)
            if outcome == REFUSED or failed.reason == _UNKNOWN:
                failed.what = f"{REFUSED} {kind}"  # a replica that began from its snapshot may not know the token yet
            self._story.failures.append(failed)
        attempt = Attempt(credential.number, incarnation.number, kind, start, time.monotonic(), outcome)
        self._story.attempts.append(attempt)

    def _open_streams(self, credential: Credential) -> None:
        for replica in self._ready():
            self._spawn(self._follow(credential, replica, *self._random.choice(_STREAMS)), self._streams)

    async def _follow(self, credential: Credential, replica: Replica, method: str, request: Any) -> None:
        """Read a stream until it ends."""
        incarnation = replica.incarnation
        call = replica.channel.unary_stream(method, type(request).SerializeToString)(
            request, metadata=bearer(self._texts[credential.number])
        )
        try:
            if await call.read() is grpc.aio.EOF:
                return
            stream = OpenStream(credential.number, incarnation.number, method.rpartition("/")[2], time.monotonic())
            self._story.streams.append(stream)
        except grpc.aio.AioRpcError:
            return
        try:
            while await call.read() is not grpc.aio.EOF:
                pass
            stream.outcome = ACCEPTED
        except grpc.aio.AioRpcError as error:
            found = failure(stream.method, stream.opened, incarnation, error, FLAG)
            is_refused = found.code in _REFUSALS or found.reason == "RIGHTS_CHANGED"
            stream.outcome = REFUSED if is_refused else FAILED
        finally:
            stream.ended = time.monotonic()
            call.cancel()

    def _ready(self) -> list[Replica]:
        return [each for each in self._replicas if each.ready.is_set()]

    def _spawn(self, work: Coroutine[Any, Any, None], among: set[asyncio.Task[None]] | None = None) -> None:
        tasks = self._under_way if among is None else among
        task = asyncio.create_task(work)
        tasks.add(task)

        def done(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                self._errors.append(error)

        task.add_done_callback(done)
