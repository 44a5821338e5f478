"""Redis in the model: entries, the lease record that certifies them, and the holder that renews it."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.near_cache import content
from tests.model.state import (
    NEVER,
    STEPS,
    LeaseRecord,
    Renewal,
    Setup,
    Shared,
    State,
    age,
    lost,
    moment,
    revision,
    with_replica,
)
from tests.model.strangers import OURS, THEIR_REPLICA, THEIRS, claimed, own_entry

Step = tuple[str, State]


def alive(setup: Setup, s: State, record: LeaseRecord | None) -> LeaseRecord | None:
    """Return the record unless it has expired, or names another store."""
    if record is not None and record.holder == THEIR_REPLICA and "lease records name their store" not in setup.without:
        return None
    return record if record is not None and age(record.verified_until) <= setup.lease_ticks else None


def put(setup: Setup, s: State, entry: int, as_of: int) -> State:
    """Store an entry unless a newer one is there.

    Where no certified entry is there, a newer one may have been evicted: an entry as of before `verified_until` is then
    stored without a moment, so that nothing certifies it.
    """
    shared = claimed(s)
    if shared is None:
        return s
    held = own_entry(setup, shared)
    if "cache takes only newer" not in setup.without:
        record = alive(setup, s, shared.record)
        if record and as_of < record.verified_until and not _counts(setup, shared, record):
            as_of = NEVER
        if held and (revision(s, held), shared.as_of) > (revision(s, entry), as_of):
            return s._replace(shared=shared)
    return s._replace(shared=shared._replace(entry=entry, as_of=as_of))


def _counts(setup: Setup, shared: Shared, record: LeaseRecord) -> bool:
    """Whether the entry that is there keeps late puts out by itself."""
    if "late puts" in setup.without:
        return True
    return own_entry(setup, shared) > 0 and (
        shared.as_of >= record.verified_from or "uncertified entries keep nothing out" in setup.without
    )


def redis_as_of(setup: Setup, s: State) -> int:
    """Return the moment as of which Redis's entry is known to be the store's."""
    shared, record = s.shared, alive(setup, s, s.shared.record)
    if not own_entry(setup, shared):
        return NEVER
    if "lease records" in setup.without:
        return moment(setup, s)
    return max(shared.as_of, record.verified_until) if record and shared.as_of >= record.verified_from else shared.as_of


def steps(setup: Setup, s: State) -> Iterator[Step]:
    """Everything that holders can do next."""
    for i in setup.holders:
        r = s.replicas[i]
        if not r.up or not r.loaded:
            continue
        if r.renewal is None:
            yield from _capture(setup, s, i)
        else:
            yield from _go_on(setup, s, i, r.renewal)


def _capture(setup: Setup, s: State, i: int) -> Iterator[Step]:
    """A renewal is about the view as it is now. There is none while nothing has changed."""
    r = s.replicas[i]
    as_of = moment(setup, s) if "a renewal counts from its view" in setup.without else r.as_of
    if age(as_of) > setup.lease_ticks:
        return
    record = alive(setup, s, s.shared.record)
    if r.record:
        nothing_new = as_of == r.record.verified_until and (not r.to_put or "changes are put again" in setup.without)
        if nothing_new and record == r.record:
            return
        entry = content(s, r) if r.to_put and "changes are put again" not in setup.without else 0
        apart = "put and renewal are one" in setup.without
        renewal = Renewal("put" if apart and entry else "renew" if apart else "both", as_of, entry)
        yield f"replica {i} prepares a renewal as of {_when(as_of)}, {_changed(entry)}", _with(s, i, renewal)
    elif record is None or record.holder == i:
        renewal = Renewal("acquire", as_of, content(s, r))
        if "acquiring forgets nothing" in setup.without:
            s = with_replica(s, i, r._replace(to_put=0))
        yield f"replica {i} prepares to acquire the lease as of {_when(as_of)}", _with(s, i, renewal)


def _with(s: State, i: int, renewal: Renewal | None) -> State:
    return with_replica(s, i, s.replicas[i]._replace(renewal=renewal))


def _go_on(setup: Setup, s: State, i: int, renewal: Renewal) -> Iterator[Step]:
    name = f"replica {i}"
    if s.left.lost:
        yield f"{name} does not reach Redis", _unreached(setup, s, i, renewal)
    if renewal.step in ("put", "fill"):
        stored = put(setup, s, renewal.entry, renewal.as_of)
        after = renewal._replace(step="renew") if renewal.step == "put" else None
        yield f"{name} puts content {renewal.entry}", _with(stored, i, after)
    elif renewal.step == "acquire":
        yield f"{name} acquires the lease", _acquired(setup, s, i, renewal)
    else:
        yield f"{name} renews the lease", _renewed(setup, s, i, renewal)


def _unreached(setup: Setup, s: State, i: int, renewal: Renewal) -> State:
    """After a renewal without an answer the lease has to be acquired again. A lost fill is harmless."""
    r = s.replicas[i]._replace(renewal=None)
    if renewal.step in ("renew", "both"):
        r = r._replace(record=None)
    return lost(with_replica(s, i, r))


def _acquired(setup: Setup, s: State, i: int, renewal: Renewal) -> State:
    record = alive(setup, s, s.shared.record)
    if (record and record.holder != i) or s.shared.owner == THEIRS:
        return _with(s, i, None)
    nonce = 0 if "each lease has its own nonce" in setup.without else _nonce(s)
    record = LeaseRecord(i, nonce, renewal.as_of, renewal.as_of)
    s = s._replace(shared=s.shared._replace(record=record, owner=OURS))
    return with_replica(s, i, s.replicas[i]._replace(record=record, renewal=renewal._replace(step="fill")))


def _renewed(setup: Setup, s: State, i: int, renewal: Renewal) -> State:
    """Put and renew as one step, or only renew: if the record is exactly the one that this replica wrote last."""
    r = s.replicas[i]
    there = alive(setup, s, s.shared.record)
    if "lease records are compared" in setup.without:
        there = there if there and r.record and there.holder == i else None
    elif there != r.record:
        there = None
    if s.shared.owner == THEIRS:
        there = None
    if there is None:
        return with_replica(s, i, r._replace(record=None, renewal=None))
    if renewal.entry and renewal.step == "both":
        s = put(setup, s, renewal.entry, renewal.as_of)
    record = LeaseRecord(i, there.nonce, there.verified_from, renewal.as_of)
    s = s._replace(shared=s.shared._replace(record=record, owner=OURS))
    to_put = r.to_put
    if to_put <= renewal.entry and (renewal.as_of % STEPS >= to_put or "until a renewal covers them" in setup.without):
        to_put = 0
    return with_replica(s, i, r._replace(record=record, renewal=None, to_put=to_put))


def _nonce(s: State) -> int:
    """Return one that no record has: only whether two are equal matters."""
    records = (s.shared.record, s.saved.record, *(r.record for r in s.replicas))
    used = {record.nonce for record in records if record is not None}
    return next(n for n in range(len(records) + 1) if n not in used)


def _when(at: int) -> str:
    return f"content {at % STEPS}"


def _changed(entry: int) -> str:
    return f"with content {entry} to put" if entry else "with nothing to put"
