"""Runs `flagsvc` with its wall clock shifted: python -m tests.faults.skewed SECONDS serve ...

Before anything of flagsvc is imported, `time.time`, `time.time_ns` and the class `datetime.datetime` are replaced by
shifted ones. The monotonic clock, which timers and event loops use, is not changed.
"""

from __future__ import annotations

import datetime  # noqa: ICN001  a class in it is replaced
import sys
import time
from types import SimpleNamespace
from typing import Any

from grpc._cython import cygrpc

_Real = datetime.datetime


class _AnyDatetime(type(_Real)):  # type: ignore[misc]
    """The drivers' C code makes datetimes of the real class; these count as instances all the same."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _Real)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, _Real)


def shift(seconds: float) -> None:
    """Shift the wall clock of this process forward, or with a negative number back."""
    real_time, real_time_ns, ahead = time.time, time.time_ns, datetime.timedelta(seconds=seconds)

    class Shifted(_Real, metaclass=_AnyDatetime):
        def __new__(cls, *args: Any, **named: Any) -> Any:
            return _Real(*args, **named)  # all moments are of one class, wherever they come from

        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return _Real.now(tz) + ahead

        @classmethod
        def utcnow(cls) -> Any:
            return _Real.now(datetime.UTC).replace(tzinfo=None) + ahead

        @classmethod
        def today(cls) -> Any:
            return cls.now()

    # gRPC's own clock stays: its core took a call's deadline from the machine's clock, and compares it with this one.
    cygrpc.time = SimpleNamespace(**vars(time))
    time.time = lambda: real_time() + seconds
    time.time_ns = lambda: real_time_ns() + int(seconds * 1e9)
    datetime.datetime = Shifted  # type: ignore[misc]


def main() -> int:
    """Shift the clock, then run."""
    shift(float(sys.argv[1]))
    from flagsvc.cli.main import main as flagsvc  # noqa: PLC0415  after the clock is what it shall be

    return flagsvc(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
