"""The near cache of the model: what a replica takes, what it holds, and how old it may be."""

from __future__ import annotations

from tests.model.state import NEVER, Replica, Setup, State, age, moment, revision


def content(s: State, r: Replica) -> int:
    """Give what would be answered of the flag that is read: what is held, or that there is none as of `known`."""
    if r.held[0] or not r.loaded:
        return r.held[0]
    return max(i for i, commit in enumerate(s.store) if commit.flag == 0 and commit.revision <= r.known)


def is_fresh(setup: Setup, s: State, r: Replica) -> bool:
    """Whether the flag that is read may be answered without asking."""
    if not setup.holds or not (r.loaded or r.held[0]):
        return False
    if "looks" in setup.without:  # a channel that is heard counts as proof
        return r.loaded and age(r.heard) <= setup.bound
    as_of = max(r.held_as_of if r.held[0] else NEVER, r.as_of if r.loaded else NEVER)
    return age(as_of) <= setup.bound


def take(setup: Setup, s: State, r: Replica, entry: int, as_of: int, *, news: bool = False) -> Replica:
    """Take an entry unless a newer one is held. `news`: it was announced, so it moves the watermark."""
    commit_revision, flag = revision(s, entry), s.store[entry].flag if entry < len(s.store) else 0
    held, known, ahead, held_as_of = r.held[flag], r.known, r.ahead, r.held_as_of
    if news and commit_revision > known and commit_revision not in ahead:
        known, ahead = _advanced(setup, known, ahead, commit_revision)
    if news and "announcements prove nothing" in setup.without:
        as_of = moment(setup, s)
    takes = _is_newer(setup, s, r, entry, as_of, news=news)
    if not takes:
        if entry == held and flag == 0:
            held_as_of = max(held_as_of, as_of)
        return r._replace(known=known, ahead=ahead, held_as_of=held_as_of)
    everything = (entry, *r.held[1:]) if flag == 0 else (r.held[0], entry)
    unput = r.unput
    if setup.cache and flag == 0 and (news or r.loaded):
        unput = entry
    if flag == 0:
        held_as_of = as_of
    if held_as_of <= r.as_of and r.loaded and not setup.stream:
        held_as_of = NEVER  # the age of the whole view says more
    return r._replace(held=everything, held_as_of=held_as_of, known=known, ahead=ahead, unput=unput)


def _is_newer(setup: Setup, s: State, r: Replica, entry: int, as_of: int, *, news: bool) -> bool:
    if "near takes only newer" in setup.without:
        return True
    number, flag = revision(s, entry), s.store[entry].flag if entry < len(s.store) else 0
    held = r.held[flag]
    if not held:
        # What a whole view does not have was deleted: only what came after it is news.
        return not (news and r.loaded) or number > r.known or "news from before the view" in setup.without
    if number != revision(s, held):
        return number > revision(s, held)
    if entry == held:
        return False
    return as_of > r.held_as_of or "equal revisions" in setup.without


def _advanced(setup: Setup, known: int, ahead: tuple[int, ...], number: int) -> tuple[int, tuple[int, ...]]:
    """Move the watermark over what is applied without a gap."""
    if "gaps" in setup.without:
        return number, ()
    beyond = {*ahead, number}
    while known + 1 in beyond:
        known += 1
        beyond.remove(known)
    return known, tuple(sorted(beyond))


def contains(s: State, r: Replica, token: int) -> bool:
    """Whether everything up to a revision is held."""
    return r.loaded and r.known >= token
