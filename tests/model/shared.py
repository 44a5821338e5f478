"""Redis in the model: entries, the mark that vouches for them, and the keeper who renews it."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.near import content
from tests.model.state import (
    NEVER,
    STEPS,
    Keeping,
    Mark,
    Setup,
    Shared,
    State,
    age,
    lost,
    moment,
    revision,
    with_replica,
)

Step = tuple[str, State]


def alive(setup: Setup, s: State, mark: Mark | None) -> Mark | None:
    """Give the mark unless its time is over."""
    return mark if mark is not None and age(mark.upto) <= setup.lasts else None


def put(setup: Setup, s: State, entry: int, as_of: int) -> State:
    """Store an entry unless a newer one is there.

    Where none is there that is vouched for, a newer one may have been there until the mark's moment: what is put as of
    before then is stored, but counts as proven by nothing.
    """
    shared = s.shared
    if "cache takes only newer" not in setup.without:
        mark = alive(setup, s, shared.mark)
        if mark and as_of < mark.upto and not _counts(setup, shared, mark):
            as_of = NEVER
        if shared.entry and (revision(s, shared.entry), shared.as_of) > (revision(s, entry), as_of):
            return s._replace(shared=shared)
    return s._replace(shared=shared._replace(entry=entry, as_of=as_of))


def _counts(setup: Setup, shared: Shared, mark: Mark) -> bool:
    """Whether what is there keeps late puts out by itself."""
    if "late puts" in setup.without:
        return True
    return shared.entry > 0 and (shared.as_of >= mark.since or "unproven entries keep nothing out" in setup.without)


def vouched_as_of(setup: Setup, s: State) -> int:
    """Give the moment as of which Redis's entry is known to be the store's."""
    shared, mark = s.shared, alive(setup, s, s.shared.mark)
    if not shared.entry:
        return NEVER
    if "marks" in setup.without:
        return moment(setup, s)
    return max(shared.as_of, mark.upto) if mark and shared.as_of >= mark.since else shared.as_of


def steps(setup: Setup, s: State) -> Iterator[Step]:
    """Everything that keepers can do next."""
    for i in setup.keepers:
        r = s.replicas[i]
        if not r.up or not r.loaded:
            continue
        if r.keeping is None:
            yield from _capture(setup, s, i)
        else:
            yield from _go_on(setup, s, i, r.keeping)


def _capture(setup: Setup, s: State, i: int) -> Iterator[Step]:
    """A word is about the view as it is now. It is not given again when there is nothing new to say."""
    r = s.replicas[i]
    as_of = moment(setup, s) if "a word counts from its view" in setup.without else r.as_of
    if age(as_of) > setup.lasts:
        return
    mark = alive(setup, s, s.shared.mark)
    if r.mark:
        nothing_new = as_of == r.mark.upto and (not r.unput or "changes are put again" in setup.without)
        if nothing_new and mark == r.mark:
            return
        entry = content(s, r) if r.unput and "changes are put again" not in setup.without else 0
        apart = "put and vouch are one" in setup.without
        keeping = Keeping("put" if apart and entry else "vouch" if apart else "both", as_of, entry)
        yield f"replica {i} captures its view as of {_when(as_of)}, {_changed(entry)}", _with(s, i, keeping)
    elif mark is None or mark.holder == i:
        keeping = Keeping("anew", as_of, content(s, r))
        if "a beginning forgets nothing" in setup.without:
            s = with_replica(s, i, r._replace(unput=0))
        yield f"replica {i} will vouch anew as of {_when(as_of)}", _with(s, i, keeping)


def _with(s: State, i: int, keeping: Keeping | None) -> State:
    return with_replica(s, i, s.replicas[i]._replace(keeping=keeping))


def _go_on(setup: Setup, s: State, i: int, keeping: Keeping) -> Iterator[Step]:
    name = f"replica {i}"
    if s.left.lost:
        yield f"{name} does not reach Redis", _unreached(setup, s, i, keeping)
    if keeping.step in ("put", "fill"):
        stored = put(setup, s, keeping.entry, keeping.as_of)
        after = keeping._replace(step="vouch") if keeping.step == "put" else None
        yield f"{name} puts content {keeping.entry}", _with(stored, i, after)
    elif keeping.step == "anew":
        yield f"{name} begins to vouch", _began(setup, s, i, keeping)
    else:
        yield f"{name} renews", _renewed(setup, s, i, keeping)


def _unreached(setup: Setup, s: State, i: int, keeping: Keeping) -> State:
    """A word that did not arrive is forgotten; a filling that did not arrive is harmless; another is tried again."""
    r = s.replicas[i]._replace(keeping=None)
    if keeping.step in ("vouch", "both"):
        r = r._replace(mark=None)
    return lost(with_replica(s, i, r))


def _began(setup: Setup, s: State, i: int, keeping: Keeping) -> State:
    mark = alive(setup, s, s.shared.mark)
    if mark and mark.holder != i:
        return _with(s, i, None)
    nonce = 0 if "a beginning has its own nonce" in setup.without else _nonce(s)
    mark = Mark(i, nonce, keeping.as_of, keeping.as_of)
    s = s._replace(shared=s.shared._replace(mark=mark))
    return with_replica(s, i, s.replicas[i]._replace(mark=mark, keeping=keeping._replace(step="fill")))


def _renewed(setup: Setup, s: State, i: int, keeping: Keeping) -> State:
    """Put and vouch as one step, or only vouch: if the mark is the one that this replica set last."""
    r = s.replicas[i]
    there, known = alive(setup, s, s.shared.mark), r.mark
    if "marks are compared" in setup.without:
        there = there and known and (there if there.holder == i else None)
    elif there != known:
        there = None
    if there is None:
        return with_replica(s, i, r._replace(mark=None, keeping=None))
    if keeping.entry and keeping.step == "both":
        s = put(setup, s, keeping.entry, keeping.as_of)
    mark = Mark(i, there.nonce, there.since, keeping.as_of)
    s = s._replace(shared=s.shared._replace(mark=mark))
    unput = r.unput
    if unput <= keeping.entry and (keeping.as_of % STEPS >= unput or "until a word covers them" in setup.without):
        unput = 0
    return with_replica(s, i, r._replace(mark=mark, keeping=None, unput=unput))


def _nonce(s: State) -> int:
    """Give one that nobody has: only whether two are the same counts."""
    marks = (s.shared.mark, s.saved.mark, *(r.mark for r in s.replicas))
    used = {mark.nonce for mark in marks if mark is not None}
    return next(n for n in range(len(marks) + 1) if n not in used)


def _when(at: int) -> str:
    return f"content {at % STEPS}"


def _changed(entry: int) -> str:
    return f"and that content {entry} is to be put" if entry else "with nothing to be put"
