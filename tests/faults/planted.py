"""Runs `flagsvc` with planted flaws: python -m tests.faults.planted FLAW,FLAW SKEW_S serve ...

Some flag service had each of these flaws. The checker must catch each of them in a run; that is tested.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.faults import planted_time
from tests.faults.schedule import LINKS, Fault
from tests.faults.skewed import shift

_LATE_S = 0.4


@dataclass(frozen=True, slots=True)
class Flaw:
    """What is planted, the promises of which at least one must be found broken, and what the flaw needs to show."""

    plant: Callable[[], None]
    breaks: frozenset[str]
    seconds: float
    """How long a run must be."""
    faults: tuple[Fault, ...] = ()
    says: str = ""
    """What an explanation says, where several flaws break the same promise."""


def _late_fill() -> None:
    """A slow reader puts what it read before a change into the near cache, whatever is there by then."""
    from flagsvc.view.near_cache import NearCache  # noqa: PLC0415  after the clock is what it shall be

    replace = NearCache._replace

    def replaced(self: Any, held: Any, *args: Any, **named: Any) -> Any:
        if held is not None:
            asyncio.get_running_loop().call_later(_LATE_S, fill, self, held)
        return replace(self, held, *args, **named)

    def fill(near: Any, held: Any) -> None:
        held.verified_at = time.monotonic()
        near._held[held.entry.id] = held

    NearCache._replace = replaced  # type: ignore[method-assign]


def _late_put() -> None:
    """The same for Redis: an unconditional put of what was there before a change."""
    from flagsvc.adapters.redis.cache import RedisCache  # noqa: PLC0415

    put = RedisCache.put
    late: set[asyncio.Task[bool]] = set()

    async def after(self: Any, entries: Any) -> bool:
        await asyncio.sleep(_LATE_S)
        return await put(self, entries, time.monotonic(), force=True)

    async def also_late(self: Any, entries: Any, as_of: float, **named: Any) -> bool:
        held = [entry for entry in await self.peek([entry.id for entry in entries]) if entry is not None]
        if len(entries) == 1 and held and held[0].revision < entries[0].revision:
            task = asyncio.create_task(after(self, held))
            late.add(task)
            task.add_done_callback(late.discard)
        return await put(self, entries, as_of, **named)

    RedisCache.put = also_late  # type: ignore[method-assign]


def _unchecked() -> None:
    """The near cache serves an entry however old it is."""
    from flagsvc.view.near_cache import NearCache  # noqa: PLC0415

    NearCache.is_fresh = lambda *_: True  # type: ignore[method-assign]


def _deaf() -> None:
    """Announcements and the change stream are ignored, and a poll never finds a change."""
    from flagsvc.replication.change_channels import ChangeChannels  # noqa: PLC0415
    from flagsvc.replication.follower import Follower  # noqa: PLC0415
    from flagsvc.view.near_cache import NearCache  # noqa: PLC0415

    verify_view = Follower._verify_view

    async def once(self: Any) -> None:
        if not self.proof.loaded.is_set():
            await verify_view(self)

    Follower._verify_view = once  # type: ignore[method-assign]
    ChangeChannels._apply_change = lambda *_: None  # type: ignore[method-assign]
    NearCache.is_fresh = lambda *_: True  # type: ignore[method-assign]


def _liar() -> None:
    """A write is reported as applied by every replica without asking them."""
    from flagsvc.replication.heartbeats import Heartbeats  # noqa: PLC0415

    Heartbeats._has_applied = lambda *_: True  # type: ignore[method-assign]


def _cut_off(seconds: float) -> tuple[Fault, ...]:
    """Replica 1 answers calls but receives no changes."""
    return tuple(Fault(n, "link", "stall", 1, link, 3.0, seconds, 0.0) for n, link in enumerate(LINKS))


def _half_revoked() -> None:
    """A replica says that it has applied a change of tokens, and enforces it a moment later."""
    from flagsvc.access.token_view import TokenView  # noqa: PLC0415

    replace = TokenView._replace

    def replaced(self: Any, tokens: Any) -> bool:
        if not self.tokens:
            return replace(self, tokens)
        asyncio.get_running_loop().call_later(_LATE_S, replace, self, tokens)
        return True

    TokenView._replace = replaced  # type: ignore[method-assign]


def _unlimited() -> None:
    """Every replica grants a caller its whole rate."""
    from flagsvc.limits.redis_lender import RedisLender  # noqa: PLC0415

    async def settle(self: Any, shares: Any, wishes: Any) -> Any:
        from flagsvc.limits.gcra import Lent  # noqa: PLC0415

        return [Lent(wish.wanted, share.limit.capacity) for share, wish in zip(shares, wishes, strict=True)]

    RedisLender.settle = settle  # type: ignore[method-assign]


FLAWS = {
    "late-fill": Flaw(_late_fill, frozenset({"P1", "P5"}), 6),
    "late-put": Flaw(_late_put, frozenset({"P3", "P5", "END"}), 8),
    "unchecked": Flaw(_unchecked, frozenset({"P3"}), 12, _cut_off(7.5)),
    "deaf": Flaw(_deaf, frozenset({"P2", "P3"}), 12),
    "half-revoked": Flaw(_half_revoked, frozenset({"P13"}), 8),
    "unlimited": Flaw(_unlimited, frozenset({"P12"}), 12),
    "liar": Flaw(_liar, frozenset({"P2"}), 12, _cut_off(4.5)),
    "own-clock": Flaw(planted_time.own_clock, frozenset({"P15"}), 12, says="before its time"),
    "twice": Flaw(planted_time.twice, frozenset({"P15"}), 12, says="stands in the history 2 times"),
    "latest-first": Flaw(planted_time.latest_first, frozenset({"P15"}), 16, says="which was due before it"),
    "silent": Flaw(planted_time.silent, frozenset({"P15"}), 20, says="its audit entry is there 0 times"),
    "dozing": Flaw(planted_time.dozing, frozenset({"P15"}), 20, says="it was never executed"),
    "restarted": Flaw(planted_time.restarted, frozenset({"P15"}), 24, says="went back on replica"),
    "kept-before": Flaw(planted_time.kept_before, frozenset({"P15"}), 12, says="kept is"),
}


def main() -> int:
    """Plant the flaws, then run."""
    flaws, skew_s = [FLAWS[name] for name in sys.argv[1].split(",")], float(sys.argv[2])
    if skew_s:
        shift(skew_s)
    from flagsvc.cli.main import main as flagsvc  # noqa: PLC0415

    for flaw in flaws:
        flaw.plant()
    return flagsvc(sys.argv[3:])


if __name__ == "__main__":
    sys.exit(main())
