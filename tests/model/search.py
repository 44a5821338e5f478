"""Exhaustive search: every state that can be reached, the nearest first, so that a counterexample is a shortest one."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from flagsvc import collector
from tests.model.protocol import END, initial, judged, steps, successors
from tests.model.state import Setup, State


@dataclass(frozen=True)
class Result:
    """What a search saw. `ends`: states with nothing left to do, in which everybody agreed.

    `broken` and `trace` are empty when every state keeps every promise; `whole`: no state is left unseen.
    """

    states: int
    steps: int
    depth: int
    ends: int
    seconds: float
    broken: str = ""
    trace: tuple[str, ...] = ()
    whole: bool = True

    @property
    def story(self) -> str:
        """The counterexample for people: its steps in order, then what they break; empty without one."""
        steps = [f"{number:>3}  {step}" for number, step in enumerate(self.trace, 1)]
        return "\n".join([*steps, f"     => {self.broken}"]) if self.broken else ""


def search(setup: Setup, most: int = 50_000_000) -> Result:
    """Visit every state; ends at the first broken promise, or (`whole` is False then) after `most` states.

    Visited states are remembered by their 64-bit hash, with that of the state before, from which a trace is found.
    """
    with collector.paused():  # states have no cycles, and to look for some among millions takes a fifth of the time
        return _search(setup, most)


def _search(setup: Setup, most: int) -> Result:
    began = time.monotonic()
    frontier = [(hash(state), state) for state in dict.fromkeys(initial(setup))]
    before = {here: 0 for here, _ in frontier}
    known: set[int] = set()
    count = depth = ends = 0
    while frontier:
        following: list[tuple[int, State]] = []
        for here, state in frontier:
            for label, found in steps(setup, state):
                count += 1
                ends += label == END
                there = hash(found)
                if there in known:  # three steps of four lead to what was judged before
                    continue
                known.add(there)
                after = judged(setup, label, found)
                if after is not found:
                    there = hash(after)
                if there in before:
                    continue
                before[there] = here
                if after.broken:
                    trace = _trace(setup, before, after)
                    return Result(len(before), count, depth + 1, ends, time.monotonic() - began, after.broken, trace)
                following.append((there, after))
        if len(before) > most:
            return Result(len(before), count, depth, ends, time.monotonic() - began, whole=False)
        frontier, depth = following, depth + 1
    return Result(len(before), count, depth - 1, ends, time.monotonic() - began)


def wander(setup: Setup, walks: int, length: int, seed: int) -> Result:
    """Go random ways through a world that is too large to be searched; ends at the first broken promise."""
    began, dice = time.monotonic(), random.Random(seed)
    starts = list(initial(setup))
    seen: set[int] = set()
    steps = ends = 0
    for _ in range(walks):
        state, labels = dice.choice(starts), []
        for _ in range(length):
            label, state = dice.choice(successors(setup, state))
            steps += 1
            ends += label == END
            labels.append(label)
            seen.add(hash(state))
            if state.broken:
                seconds = time.monotonic() - began
                return Result(len(seen), steps, len(labels), ends, seconds, state.broken, tuple(labels))
    return Result(len(seen), steps, length, ends, time.monotonic() - began, whole=False)


def _trace(setup: Setup, before: dict[int, int], last: State) -> tuple[str, ...]:
    """Walk the way to a state once more, forwards, and return its steps."""
    way = [hash(last)]
    while way[-1] in before and before[way[-1]]:
        way.append(before[way[-1]])
    state = next(s for s in initial(setup) if hash(s) == way[-1])
    labels = []
    for there in reversed(way[:-1]):
        label, state = next(step for step in successors(setup, state) if hash(step[1]) == there)
        labels.append(label)
    return tuple(labels)
