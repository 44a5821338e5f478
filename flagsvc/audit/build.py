"""Builds the audit of a server, where its store keeps one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from flagsvc.api.common.interceptors import Refuse
from flagsvc.api.common.listener import Listener
from flagsvc.api.common.peers import Peers
from flagsvc.audit.grpc_calls import Auditing
from flagsvc.audit.recorder import AuditRecorder
from flagsvc.background import BackgroundTasks
from flagsvc.replica import Replica
from flagsvc.telemetry import Sample


class Audit:
    """The audit of a server. A served file keeps none."""

    def __init__(self, replica: Replica) -> None:
        self.recorder = AuditRecorder(replica.store.audit) if replica.store.audit is not None else None

    def wrappers(self) -> Sequence[Callable[[Listener, Peers], Auditing]]:
        """Return what makes the wrapper of a listener's handlers."""
        recorder = self.recorder
        return () if recorder is None else (lambda _listener, _peers: Auditing(recorder),)

    @property
    def refuse(self) -> Refuse | None:
        """What notes refused calls."""
        return self.recorder.refuse if self.recorder is not None else None

    def start(self, tasks: BackgroundTasks) -> None:
        """Begin to write refusals, as a task of the server's."""
        if self.recorder is not None:
            tasks.start(self.recorder.run(), "audit")

    async def close(self) -> None:
        """Write what waits."""
        if self.recorder is not None:
            await self.recorder.write_waiting()

    def samples(self) -> Iterator[Sample]:
        """Yield the counts for Prometheus."""
        if self.recorder is not None:
            yield from self.recorder.samples()
