"""A flag and its parent: every order of changes, announcements, loads and reads that a replica can see.

The store has two flags of one set, each change of which gets the next revision. A replica hears of changes in any
order, or not at all, loads the store in steps, and reads a family at once. An answer is right if the store had both
flags like that at one moment, and neither is older than in an answer before it or than the replica's own write.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

PROTECTIONS = (
    "no member is beyond the watermark",
    "a load that is half applied is no moment",
    "flag and parent are read at once",
    "what was read is held",
    "a read that something newer was answered during is made once more",
    "a family that was kept ends with a change of one of its flags",
)
CHANGES = ((0, 1), (1, 0), (0, 0), (1, 1))
"""Which of both flags changes, one after the other."""
LARGE = ((0, 1, 0), (1, 0, 1), (0, 0, 1), (1, 1, 0))
Pair = tuple[int, int]
"""The revision of the parent and of the child."""


class State(NamedTuple):
    """`store`: both flags and, as the watermark, how many changes there were. `news`: changes not heard of here.

    `foreign`: the changes are another program's, and get no revision. Only loads and reads bring them.
    `read` and `load`: what was read and is not applied yet, with the counter; `load` of one flag is applied first.
    `answered`: the last answer. `kept`: a family that may be answered again. `half`: one flag of a read that is not at
    once. `broken`: what went wrong.
    """

    changes: tuple[int, ...]
    foreign: bool = False
    done: int = 0
    held: Pair = (0, 0)
    watermark: int = 0
    ahead: tuple[int, ...] = ()
    news: tuple[int, ...] = ()
    read: tuple[Pair, int] | None = None
    load: tuple[Pair, int] | None = None
    load_applied: int = 0
    half: tuple[int, int] | None = None
    answered: Pair = (0, 0)
    kept: Pair | None = None
    broken: str = ""

    def moment(self, done: int) -> Pair:
        """Return both flags as the store had them after so many changes."""
        parent = max((n for n, flag in enumerate(self.changes[:done], 1) if flag == 0), default=0)
        child = max((n for n, flag in enumerate(self.changes[:done], 1) if flag == 1), default=0)
        return parent, child


def newest(one: Pair, other: Pair) -> Pair:
    """Return the newer entry of each flag: none is ever replaced by an older one."""
    return max(one[0], other[0]), max(one[1], other[1])


def heard(s: State, revision: int) -> State:
    """Apply a change, and move the watermark over what has no gap."""
    flag = s.changes[revision - 1]
    held = newest(s.held, (revision, 0) if flag == 0 else (0, revision))
    ahead, watermark = {*s.ahead, revision}, s.watermark
    while watermark + 1 in ahead:
        watermark += 1
    left = tuple(sorted(n for n in ahead if n > watermark))
    return s._replace(held=held, watermark=watermark, ahead=left, news=tuple(n for n in s.news if n != revision))


def answer(s: State, found: Pair, what: str) -> State:
    """Give an answer, and say whether it is wrong."""
    if all(s.moment(done) != found for done in range(s.done + 1)):
        return s._replace(broken=f"{what} answers {found}, which the store never had")
    if found[0] < s.answered[0] or found[1] < s.answered[1]:
        return s._replace(broken=f"{what} answers {found} after {s.answered}")
    return s._replace(answered=found)


def steps(s: State, without: str = "") -> Iterator[tuple[str, State]]:
    """Yield each step that may be next."""
    on = [each != without for each in PROTECTIONS]
    if s.done < len(s.changes):
        made = s._replace(done=s.done + 1, news=(*s.news, s.done + 1))
        if s.foreign:
            yield f"another program makes change {made.done}", s._replace(done=s.done + 1)
    if s.done < len(s.changes) and not s.foreign:
        yield f"another replica stores change {made.done}", made
        own = heard(made, made.done)
        yield f"the replica stores change {made.done} itself", own._replace(answered=newest(s.answered, _only(own)))
    for revision in s.news:
        yield f"change {revision} is announced", heard(s, revision)
        yield f"the announcement of {revision} is lost", s._replace(news=tuple(n for n in s.news if n != revision))
    is_whole = (s.foreign or max(s.held) <= s.watermark or not on[0]) and not (s.load_applied and on[1])
    if is_whole:
        yield "the view answers", answer(s, s.held, "the view")
    if s.kept is not None and (s.kept == newest(s.kept, s.held) or not on[5]):
        yield "a kept family answers", answer(s, s.kept, "a kept family")
    yield from _reads(s, on)
    if s.load is None:
        yield "the store is loaded", s._replace(load=(s.moment(s.done), s.done), load_applied=0)
    else:
        (parent, child), counter = s.load
        if not s.load_applied:
            yield "the load's child is applied", s._replace(held=newest(s.held, (0, child)), load_applied=1)
        else:
            held, watermark = newest(s.held, (parent, child)), max(s.watermark, counter)
            ahead = tuple(n for n in s.ahead if n > watermark)
            yield (
                "the load is applied",
                s._replace(held=held, watermark=watermark, ahead=ahead, load=None, load_applied=0),
            )


def _reads(s: State, on: list[bool]) -> Iterator[tuple[str, State]]:
    if not on[2]:
        if s.half is None:
            yield "the parent is read", s._replace(half=(s.moment(s.done)[0], s.done))
        else:
            found = (s.half[0], s.moment(s.done)[1])
            yield "the child is read", answer(s._replace(half=None), newest(found, found), "a read in pieces")
    elif s.read is None:
        yield "a family is read", s._replace(read=(s.moment(s.done), s.done))
    else:
        (found, _), done = s.read, s._replace(read=None)
        if on[3]:
            done = done._replace(held=newest(s.held, found), kept=found)
        is_newest = found == newest(found, s.held) and found == newest(found, s.answered)
        if is_newest or not on[4]:
            yield "the read is answered", answer(done, found, "a read")
        else:
            yield "the read is given up", s._replace(read=None)


def _only(s: State) -> Pair:
    """Return the flag of the last change alone: who has written it gets it from then on."""
    return (s.done, 0) if s.changes[s.done - 1] == 0 else (0, s.done)


def broken(without: str = "", worlds: tuple[tuple[int, ...], ...] = CHANGES) -> tuple[int, str]:
    """Search all states, nearest first; return how many there are, and the first that is wrong with the way there."""
    seen: dict[State, tuple[State, str] | None] = {}
    seen |= {State(changes, foreign): None for changes in worlds for foreign in (False, True)}
    pending = list(seen)
    for state in pending:
        if state.broken:
            return len(seen), _story(seen, state)
        for name, after in steps(state, without):
            if after not in seen:
                seen[after] = state, name
                pending.append(after)
    return len(seen), ""


def _story(seen: dict[State, tuple[State, str] | None], last: State) -> str:
    names, state, found = [last.broken], last, seen[last]
    while found is not None:
        state, name = found
        names.append(name)
        found = seen[state]
    return " · ".join(reversed(names))
