"""What pending schedules make of a flag by a time to come, if nobody changes it meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flagsvc.core.errors import FlagNotFound, InvalidRequest
from flagsvc.core.model import Flag
from flagsvc.core.schedules.decisions import due, rebased
from flagsvc.core.schedules.model import Schedule


def previewed(flag: Flag, schedules: Sequence[Schedule]) -> Flag:
    """Return the flag after these schedules, each on time and in their order. Those that would be held are left out.

    It keeps its revision: the ones to come are not known.
    """
    changed: dict[str, str] = {}
    for schedule in schedules:
        base = {name: changed.get(name, value) for name, value in schedule.base.items()}
        try:
            _, change = due(replace(schedule, base=base), flag, schedule.execute_at)
        except (FlagNotFound, InvalidRequest):
            continue  # it will fail
        if change is not None and change.after is not None:
            flag = replace(change.after, revision=flag.revision)
            changed |= rebased(change)
    return flag
