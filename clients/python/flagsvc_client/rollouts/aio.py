"""Changes of rollouts. The source of the synchronous form: after a change run `make sync-client`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Unpack

from flagsvc_client._engine.model import Flag
from flagsvc_client._engine.rollouts import DEFAULT_BUCKET_BY
from flagsvc_client.definitions.aio import AsyncDefinitions
from flagsvc_client.flag_fields import WriteOptions
from flagsvc_client.results import WriteResult
from flagsvc_client.rollouts.status import RolloutStatus, Step, rollout_json, status_of
from flagsvc_client.stubs.flagsvc.v1 import rollout_service_pb2 as pb


class AsyncRollouts(AsyncDefinitions):
    """The part of a client that is about rollouts. Every failed call raises a FlagServiceError.

    A change begins at the share that stands, so that nobody moves back. The result has the status in `rollout`.
    """

    async def rollout(self, key: str) -> RolloutStatus:
        """Read how far a flag's rollout is. Raises FlagServiceError with ROLLOUT_MISSING where it has none."""
        request = pb.GetRolloutRequest(flag_key=key, flag_set=self._session.flag_set)
        return status_of((await self._transport.call("GetRollout", request)).status)

    async def start_rollout(
        self,
        key: str,
        from_variant: str,
        to_variant: str,
        *,
        over: timedelta | None = None,
        steps: Sequence[Step] = (),
        bucket_by: str = DEFAULT_BUCKET_BY,
        etag: str = "",
        **options: Unpack[WriteOptions],
    ) -> WriteResult:
        """Move callers from one variant to another from now on, or change the way of a rollout that is under way.

        `over`: evenly. `steps`: shares in percent, each with its time, or how long from now, such as
        `[(timedelta(0), 1), (timedelta(hours=1), 10), (timedelta(days=1), 100)]`. `bucket_by`: the context field that
        decides who is first.
        """
        wanted = rollout_json(from_variant, to_variant, over, steps, bucket_by)
        request = self._session.update_request(Flag(key=key, rollout=wanted), ["rollout"], etag)
        return await self._write("UpdateFlag", request, options)

    async def pause_rollout(self, key: str, *, etag: str = "", **options: Unpack[WriteOptions]) -> WriteResult:
        """Keep the share of now until the rollout is resumed. Idempotent."""
        request = pb.PauseRolloutRequest(flag_key=key, flag_set=self._session.flag_set, etag=etag)
        return await self._write("PauseRollout", request, options)

    async def resume_rollout(self, key: str, *, etag: str = "", **options: Unpack[WriteOptions]) -> WriteResult:
        """Let a paused rollout go on, later by the length of the pause. Idempotent."""
        request = pb.ResumeRolloutRequest(flag_key=key, flag_set=self._session.flag_set, etag=etag)
        return await self._write("ResumeRollout", request, options)

    async def rollback_rollout(
        self, key: str, *, over: timedelta | None = None, etag: str = "", **options: Unpack[WriteOptions]
    ) -> WriteResult:
        """Move callers back, who moved last first: as they came, or evenly within `over`; `timedelta(0)`: at once."""
        request = pb.RollbackRolloutRequest(flag_key=key, flag_set=self._session.flag_set, etag=etag)
        if over is not None:
            request.over.FromTimedelta(over)
        return await self._write("RollbackRollout", request, options)
