"""Planted flaws of planned changes, rollouts and kept revisions, for `tests.faults.planted`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

_DOZE_S, _LONG_S = 8.0, 60.0


def own_clock() -> None:
    """What is due is decided by a replica's clock, not by MongoDB's: one of them is an hour ahead."""
    from datetime import UTC, datetime  # noqa: PLC0415  after the clock is what it shall be

    from flagsvc.adapters.mongo import schedules  # noqa: PLC0415
    from flagsvc.core.model import FlagId  # noqa: PLC0415
    from flagsvc.ports.schedules import Upcoming  # noqa: PLC0415

    async def upcoming(self: Any, limit: int) -> list[Upcoming]:
        now, found = datetime.now(UTC), self._schedules.find({"state": "PENDING"})
        rows = [raw async for raw in found.sort(schedules._IN_ORDER).limit(limit)]
        return [_upcoming(raw, now) for raw in rows]

    def _upcoming(raw: Mapping[str, Any], now: datetime) -> Upcoming:
        flag_id = FlagId(raw["flagSet"], raw["flagKey"])
        return Upcoming(flag_id, (raw["executeAt"] - now).total_seconds(), raw["_id"])

    schedules._IS_DUE = {}
    schedules.MongoSchedules.upcoming = upcoming  # type: ignore[method-assign]


def twice() -> None:
    """A schedule is still pending after its execution, once."""
    from flagsvc.core.schedules.model import State  # noqa: PLC0415
    from flagsvc.schedules.attempts import DueAttempt  # noqa: PLC0415

    ended, seen = DueAttempt.ended, set[str]()

    def once_more(self: Any, revision: int) -> Any:
        found = ended(self, revision)
        if found.schedule.state is not State.EXECUTED or found.schedule.id in seen:
            return found
        seen.add(found.schedule.id)
        return found._replace(schedule=replace(found.schedule, state=State.PENDING, ended_at=None))

    DueAttempt.ended = once_more  # type: ignore[method-assign]


def latest_first() -> None:
    """Of several due schedules of a flag the latest is executed first."""
    from flagsvc.adapters.mongo import schedules  # noqa: PLC0415

    schedules._IN_ORDER = [("executeAt", -1), ("number", -1)]


def silent() -> None:
    """What is missed or fails leaves no audit entry."""
    from flagsvc.schedules.attempts import DueAttempt  # noqa: PLC0415

    ended = DueAttempt.ended
    DueAttempt.ended = lambda self, revision: ended(self, revision)._replace(entry=None)  # type: ignore[method-assign]
    _doze(_DOZE_S)  # so that some are missed


def dozing() -> None:
    """Nobody looks when something is due."""
    _doze(_LONG_S)


def _doze(seconds: float) -> None:
    from flagsvc.schedules.executor import ScheduleExecutor  # noqa: PLC0415

    look = ScheduleExecutor._look

    async def rarely(self: Any) -> float:
        return await look(self) + seconds

    ScheduleExecutor._look = rarely  # type: ignore[method-assign]
    ScheduleExecutor.wake = lambda _: None  # type: ignore[method-assign]


def restarted() -> None:
    """An edit of a rollout begins where the new definition begins, not at the share that stands."""
    from flagsvc.core.rollouts import changes  # noqa: PLC0415

    changes.standing_share = lambda *_: 0


def kept_before() -> None:
    """What is kept of a revision is what the flag was before it."""
    from flagsvc.adapters.mongo.definitions import MongoDefinitions  # noqa: PLC0415

    record, last = MongoDefinitions.record, dict[Any, Any]()

    async def before(self: Any, flag_id: Any, moment: Any, flag: Any, *args: Any) -> None:
        earlier, last[flag_id] = last.get(flag_id, flag), flag
        await record(self, flag_id, moment, earlier, *args)

    MongoDefinitions.record = before  # type: ignore[method-assign]
