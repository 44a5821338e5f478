"""Another store's replicas on the same Redis: what they put, announce and certify must never count here."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.state import LeaseRecord, Setup, Shared, State, moment, with_replica

Step = tuple[str, State]
STRANGER = 15
"""A content of another store, and its revision: newer than everything here."""
OURS, THEIRS, NOBODYS = 0, 1, 2
"""Who owns the keys in Redis."""
THEIR_REPLICA = 2


def steps(setup: Setup, s: State) -> Iterator[Step]:
    """Everything that another store's replica can do next, and the loss of the key that names the owner."""
    if s.left.evictions and s.shared.owner != NOBODYS and setup.left.strangers:
        left = s.left._replace(evictions=s.left.evictions - 1)
        yield "Redis forgets who owns the keys", s._replace(shared=s.shared._replace(owner=NOBODYS), left=left)
    if not s.left.strangers:
        return
    after = s._replace(left=s.left._replace(strangers=s.left.strangers - 1))
    if setup.channel:
        yield "another store announces its content", _announced(setup, after)
    if s.shared.owner == OURS and "one store owns the keys" not in setup.without:
        return
    now, owner = moment(setup, s), OURS if s.shared.owner == OURS else THEIRS
    theirs = s.shared._replace(entry=STRANGER, as_of=now, owner=owner)
    yield "another store puts its content", after._replace(shared=theirs)
    record = s.shared.record
    renews = record is not None and record.holder == THEIR_REPLICA
    record = LeaseRecord(THEIR_REPLICA, 9, record.verified_from if record and renews else now, now)
    verb = "renews" if renews else "acquires"
    yield f"another store {verb} its lease", after._replace(shared=s.shared._replace(record=record, owner=owner))


def claimed(s: State) -> Shared | None:
    """Return Redis as this store finds it, owning the keys from then on; None where another store owns them."""
    return None if s.shared.owner == THEIRS else s.shared._replace(owner=OURS)


def own_entry(setup: Setup, shared: Shared) -> int:
    """Return the entry that is there, unless it names another store."""
    return 0 if shared.entry == STRANGER and "entries name their store" not in setup.without else shared.entry


def _announced(setup: Setup, s: State) -> State:
    for i in setup.followed:
        if s.replicas[i].up:
            s = with_replica(s, i, s.replicas[i]._replace(inbox=(*s.replicas[i].inbox, STRANGER)))
    return s
