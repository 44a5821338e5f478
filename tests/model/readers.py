"""Reads of the model: lookups, which callers share, and the callers that wait for them."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model import promises
from tests.model.near_cache import contains, content, is_fresh, take
from tests.model.shared_cache import put, redis_as_of
from tests.model.state import (
    NEVER,
    Flight,
    Reader,
    Setup,
    State,
    age,
    lost,
    moment,
    newest,
    revision,
    with_replica,
)
from tests.model.strangers import claimed, own_entry

Step = tuple[str, State]


def steps(setup: Setup, s: State) -> Iterator[Step]:
    """Everything that callers and their lookup can do next."""
    if not s.replicas[s.reads_at].up:
        return
    if s.flight is not None:
        yield from _fly(setup, s, s.flight)
    elif setup.lookups:
        yield f"somebody asks replica {s.reads_at}", s._replace(flight=Flight("fetch"))
    for k, reader in enumerate(s.readers):
        yield from _read(setup, s, k, reader)


def _fly(setup: Setup, s: State, flight: Flight) -> Iterator[Step]:
    if flight.step == "fetch":
        yield from _fetch(setup, s)
    elif flight.step == "read":
        yield from _ask(setup, s, flight)
    elif flight.step in ("land", "take"):
        yield _lands(setup, s, flight)
    elif flight.step == "fill":
        after = _done(setup, flight)
        filled = put(setup, s, flight.entry, flight.as_of)
        yield f"the lookup puts content {flight.entry}", filled._replace(flight=after)
        if s.left.lost:
            yield "the lookup does not reach Redis", lost(s)._replace(flight=after)
            unproven = put(setup, lost(s), flight.entry, NEVER)
            yield f"the lookup puts content {flight.entry}, not knowing Redis's clock", unproven._replace(flight=after)
    else:
        readers = tuple(_given(setup, reader, flight) for reader in s.readers)
        yield "the lookup returns what it found", s._replace(flight=None, readers=readers)


def _fetch(setup: Setup, s: State) -> Iterator[Step]:
    """Ask Redis. In worlds without ticks its entry may always be too old as well."""
    if (claim := claimed(s)) is None:
        yield "the lookup finds Redis in another store's hands", s._replace(flight=Flight("read"))
        return
    s = s._replace(shared=claim)
    shared, as_of = s.shared, redis_as_of(setup, s)
    young = own_entry(setup, shared) and age(as_of) <= setup.bound
    if young and revision(s, shared.entry) >= revision(s, s.replicas[s.reads_at].held[0]):
        flight = Flight("take", shared.entry, as_of)
        yield f"the lookup finds content {shared.entry} in Redis, fresh enough", s._replace(flight=flight)
    elif young:
        yield "the lookup finds in Redis what is older than was held", s._replace(flight=Flight("read"))
    if not (young and setup.timed):
        yield "the lookup finds nothing fresh enough in Redis", s._replace(flight=Flight("read"))
    if s.left.lost:
        yield "the lookup does not reach Redis", lost(s)._replace(flight=Flight("read"))


def _ask(setup: Setup, s: State, flight: Flight) -> Iterator[Step]:
    r, entry = s.replicas[s.reads_at], newest(s)
    found = Flight("land", entry, moment(setup, s))
    yield f"the lookup reads content {entry} from the store", s._replace(flight=found)
    if s.left.lost:
        known = Flight("give", result=content(s, r) if setup.holds else 0, stale=not is_fresh(setup, s, r))
        yield "the lookup does not reach the store", lost(s)._replace(flight=_done(setup, known))


def _lands(setup: Setup, s: State, flight: Flight) -> Step:
    """Apply what was found to the near cache; what is held then is the result. Redis's own entry is not put back."""
    i = s.reads_at
    r = take(setup, s, s.replicas[i], flight.entry, flight.as_of) if i in setup.followed else s.replicas[i]
    result = content(s, r) if setup.holds else flight.entry
    landed = flight._replace(step="fill", result=result, stale=age(flight.as_of) > setup.bound)
    after = landed if flight.step == "land" and setup.cache else _done(setup, landed)
    return f"the lookup applies content {flight.entry}", with_replica(s, i, r)._replace(flight=after)


def _done(setup: Setup, flight: Flight) -> Flight | None:
    """Return what is left to do: to return the result, where callers do not take what is held then."""
    if setup.lookups:
        return None
    return Flight("give") if _answers_what_is_held(setup) else flight._replace(step="give", entry=0)


def _answers_what_is_held(setup: Setup) -> bool:
    """Whether an answer is what the near cache holds when it is given, and so checked already: see promises.watched."""
    return setup.holds and "answers are what is held" not in setup.without


def _given(setup: Setup, reader: Reader, flight: Flight) -> Reader:
    if reader.step != "waits":
        return reader
    if _answers_what_is_held(setup):
        return reader._replace(step="given")
    given = reader._replace(step="given", entry=flight.result, as_of=flight.as_of, stale=flight.stale)
    return given if flight.result else Reader()


def _read(setup: Setup, s: State, k: int, reader: Reader) -> Iterator[Step]:
    i = s.reads_at
    name, r = f"reader {k}", s.replicas[i]
    if reader.step == "idle":
        yield from _begin(setup, s, k, name)
    elif reader.step == "waits" and setup.holds:
        known = reader._replace(step="given", entry=content(s, r), stale=not is_fresh(setup, s, r))
        yield from _finish(setup, s, k, f"{name} waits no longer and", known)
    elif reader.step == "given":
        yield from _finish(setup, s, k, name, reader)
    elif reader.step == "alone":
        entry = newest(s)
        took = with_replica(s, i, take(setup, s, r, entry, moment(setup, s)))
        yield f"{name} reads the store itself", _answer(took, k, reader, entry, stale=False)
        if s.left.lost:
            yield f"{name} does not reach the store: UNAVAILABLE", _reads(lost(s), k, Reader())


def _begin(setup: Setup, s: State, k: int, name: str) -> Iterator[Step]:
    if any(reader.step == "idle" for reader in s.readers[:k]):
        return  # callers differ only in their names: the first that is idle begins
    r = s.replicas[s.reads_at]
    for token in {0, s.answered} if setup.tokens else {0}:
        has = not token or revision(s, content(s, r)) >= token or contains(s, r, token)
        if setup.timed and is_fresh(setup, s, r) and has:
            continue  # answered at once: see promises.watched
        reader = Reader("waits", token=token)
        if not _answers_what_is_held(setup):
            reader = Reader("waits", promises.due(setup, s), r.owed, r.shown, r.held[0], token)
        flight = s.flight or Flight("fetch" if setup.cache else "read")
        with_token = f" with token {token}" if token else ""
        joins = " and joins the lookup" if s.flight else ""
        yield f"{name} begins on replica {s.reads_at}{with_token}{joins}", _reads(s, k, reader)._replace(flight=flight)


def _finish(setup: Setup, s: State, k: int, name: str, reader: Reader) -> Iterator[Step]:
    r = s.replicas[s.reads_at]
    entry, stale = reader.entry, reader.stale
    if _answers_what_is_held(setup):
        entry, stale = content(s, r), not is_fresh(setup, s, r)
    elif not setup.holds:
        stale = stale or age(reader.as_of) > setup.bound
    if not entry:
        yield f"{name} gets no answer: nothing is known", _reads(s, k, Reader())
        return
    alone = reader._replace(step="alone", entry=0, as_of=NEVER, stale=False)
    if reader.token and revision(s, entry) < reader.token and not contains(s, r, reader.token):
        yield f"{name} got content {entry} and wants revision {reader.token}", _reads(s, k, alone)
    elif revision(s, entry) < revision(s, reader.high_water) and "high-water marks" not in setup.without:
        yield f"{name} got content {entry}, older than was held when it began", _reads(s, k, alone)
    else:
        reason = " as STALE" if stale else ""
        yield f"{name} answers content {entry}{reason}", _answer(s, k, reader, entry, stale=stale)


def _answer(s: State, k: int, reader: Reader, entry: int, *, stale: bool) -> State:
    i = s.reads_at
    r = s.replicas[i]
    broken = promises.judged(s, entry, reader, stale=stale)
    if revision(s, entry) > revision(s, r.shown):
        s = with_replica(s, i, r._replace(shown=entry))
    return _reads(s, k, Reader())._replace(broken=broken)


def _reads(s: State, k: int, reader: Reader) -> State:
    return s._replace(readers=(*s.readers[:k], reader, *s.readers[k + 1 :]))
