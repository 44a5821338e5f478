"""Which fault happens when, to what and for how long: a pure function of the seed, the length and what there is.

Storms, in which up to three faults are active at once, alternate with calm times, some of them longer than the
staleness bound: only these show whether everything recovers by itself.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

LINKS = ("redis", "mongo", "mongo-tail")
MAX_AT_ONCE = 3
WARM_UP_S = 3.0
_SHORTEST_S, _LONGEST_S = 0.2, 12.0
_STORM_S = (10.0, 18.0)
_CALM_S = (1.5, 4.0)
_LONG_CALM_S = (8.0, 10.0)
_LONG_EVERY = 3
_BETWEEN_S = 0.4
_LAST_CALM_S = 4.0
_SHORT_RUN_S = 90.0


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault. `weight`: its share of all; `lasts`: whether it has a duration; `recovers_s`: what it hit
    needs about this long to recover, and gets no other fault meanwhile."""

    name: str
    weight: float
    lasts: bool = True
    recovers_s: float = 0.0
    longest_s: float = _LONGEST_S
    members: int = 1
    """The least number of mongods."""


ON_LINKS = (
    Kind("delay", 5),
    Kind("stall", 6),
    Kind("stall one", 4),
    Kind("refuse", 3),
    Kind("black hole", 3),
    Kind("cut", 5, lasts=False),
    Kind("reset", 5, lasts=False),
    Kind("half-close there", 3, lasts=False),
    Kind("half-close back", 3, lasts=False),
)
ON_REPLICAS = (
    Kind("kill", 4, recovers_s=3.0, longest_s=6.0),
    Kind("kill while writing", 3, recovers_s=3.0, longest_s=3.0),
    Kind("pause", 6),
    Kind("restart", 2, lasts=False, recovers_s=4.0),
)
ON_REDIS = (
    Kind("kill", 2.5, recovers_s=1.0),
    Kind("pause", 3),
    Kind("flush", 3.5, lasts=False),
    Kind("poison", 4, lasts=False),
    Kind("empty restart", 3, recovers_s=1.0, longest_s=4.0),
    Kind("old dump", 4, recovers_s=1.0, longest_s=4.0),
    Kind("refuses", 3),
    Kind("slow start", 2, recovers_s=1.0, longest_s=6.0),
)
ON_MONGODS = (
    Kind("kill", 3, recovers_s=4.0, longest_s=6.0),
    Kind("pause", 3, recovers_s=2.0),
    Kind("stepdown", 3, lasts=False, recovers_s=3.0, members=2),
)
_GROUPS = (("link", ON_LINKS), ("replica", ON_REPLICAS), ("redis", ON_REDIS), ("mongod", ON_MONGODS))


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. Times are in seconds from the start; `dice`, 0 to 1, decides the remaining details."""

    number: int
    group: str
    """link, replica, redis or mongod."""
    kind: str
    target: int
    """For a link or replica the replica's number, for a mongod the member's; -1: its primary."""
    link: str
    begin: float
    seconds: float
    dice: float

    @property
    def name(self) -> str:
        """Its name in tables."""
        return f"{self.link or self.group} {self.kind}"

    @property
    def where(self) -> str:
        """What it happens to."""
        if self.group in ("link", "replica"):
            return f"replica {self.target}"
        if self.group == "mongod":
            return "the primary" if self.target < 0 else f"member {self.target}"
        return "redis"


def schedule(seed: int, seconds: float, *, replicas: int = 3, mongods: int = 1) -> list[Fault]:
    """Return the faults ordered by their beginning; none lasts to the end."""
    dice = random.Random(seed)
    faults: list[Fault] = []
    busy: dict[str, float] = {}
    for since, until in _storms(dice, seconds):
        at = since
        while True:
            at = round(at + 0.001 + dice.expovariate(1 / _BETWEEN_S), 3)  # no two begin at the same time
            if at >= until:
                break
            fault = _fault(dice, len(faults), at, replicas, mongods)
            recovers_s = _kind(fault).recovers_s
            end = at + fault.seconds + recovers_s
            active = sum(f.begin + f.seconds > at for f in faults[-50:])
            if active < MAX_AT_ONCE and busy.get(_key(fault), 0.0) <= at and end <= until + recovers_s:
                faults.append(fault)
                busy[_key(fault)] = end
    return faults


def _storms(dice: random.Random, seconds: float) -> Iterator[tuple[float, float]]:
    """Return the times of storms. A short run has one long calm time; a long run has one after every third storm."""
    at, number = WARM_UP_S, 0
    while at < seconds - _LAST_CALM_S:
        number += 1
        until = min(at + dice.uniform(*_STORM_S), seconds - _LAST_CALM_S)
        yield at, until
        long = number % _LONG_EVERY == (1 if seconds < _SHORT_RUN_S else 0)
        at = until + dice.uniform(*(_LONG_CALM_S if long else _CALM_S))


def _fault(dice: random.Random, number: int, at: float, replicas: int, mongods: int) -> Fault:
    kinds = [(group, kind) for group, each in _GROUPS for kind in each if kind.members <= mongods]
    [(group, kind)] = dice.choices(kinds, [kind.weight for _, kind in kinds])
    lasts = math.exp(dice.uniform(math.log(_SHORTEST_S), math.log(kind.longest_s))) if kind.lasts else 0.0
    target, link = 0, ""
    if group == "link":
        target, link = dice.randrange(replicas), dice.choice(LINKS)
    elif group == "replica":
        target = dice.randrange(replicas)
    elif group == "mongod":
        target = -1 if kind.name == "stepdown" else dice.randrange(-1, mongods)
    return Fault(number, group, kind.name, target, link, at, round(lasts, 3), round(dice.random(), 6))


def _kind(fault: Fault) -> Kind:
    return next(kind for group, kinds in _GROUPS if group == fault.group for kind in kinds if kind.name == fault.kind)


def _key(fault: Fault) -> str:
    """What cannot have two faults at once: a link of a replica, a replica, Redis, the mongods."""
    return f"{fault.group} {fault.link} {fault.target if fault.group in ('link', 'replica') else ''}"
