"""The near cache of the model: what a replica applies, what it holds, and how old it may be."""

from __future__ import annotations

from tests.model.state import NEVER, Replica, Setup, State, age, moment, revision


def content(s: State, r: Replica) -> int:
    """Return what would be answered: what is held, or that there is no such flag as of the watermark."""
    if r.held[0] or not r.loaded:
        return r.held[0]
    return max(i for i, commit in enumerate(s.store) if commit.flag == 0 and commit.revision <= r.watermark)


def is_fresh(setup: Setup, s: State, r: Replica) -> bool:
    """Whether the flag that is read may be answered without asking."""
    if not setup.holds or not (r.loaded or r.held[0]):
        return False
    if "proof by polls" in setup.without:  # any message counts as proof
        return r.loaded and age(r.heard_at) <= setup.bound
    as_of = max(r.held_as_of if r.held[0] else NEVER, r.as_of if r.loaded else NEVER)
    return age(as_of) <= setup.bound


def take(setup: Setup, s: State, r: Replica, entry: int, as_of: int, *, news: bool = False) -> Replica:
    """Apply an entry unless a newer one is held. `news`: it was announced, so it moves the watermark."""
    commit_revision, flag = revision(s, entry), s.store[entry].flag if entry < len(s.store) else 0
    held, watermark, ahead, held_as_of = r.held[flag], r.watermark, r.ahead, r.held_as_of
    if news and commit_revision > watermark and commit_revision not in ahead:
        watermark, ahead = _advanced(setup, watermark, ahead, commit_revision)
    if news and "announcements prove nothing" in setup.without:
        as_of = moment(setup, s)
    takes = _is_newer(setup, s, r, entry, as_of, news=news)
    if not takes:
        if entry == held and flag == 0:
            held_as_of = max(held_as_of, as_of)
        return r._replace(watermark=watermark, ahead=ahead, held_as_of=held_as_of)
    everything = (entry, *r.held[1:]) if flag == 0 else (r.held[0], entry)
    to_put = r.to_put
    if setup.cache and flag == 0 and (news or r.loaded):
        to_put = entry
    if flag == 0:
        held_as_of = as_of
    if held_as_of <= r.as_of and r.loaded and not setup.stream:
        held_as_of = NEVER  # the age of the whole view says more
    return r._replace(held=everything, held_as_of=held_as_of, watermark=watermark, ahead=ahead, to_put=to_put)


def _is_newer(setup: Setup, s: State, r: Replica, entry: int, as_of: int, *, news: bool) -> bool:
    if "near takes only newer" in setup.without:
        return True
    number, flag = revision(s, entry), s.store[entry].flag if entry < len(s.store) else 0
    held = r.held[flag]
    if not held:
        # A complete view lacks what was deleted: only a later change is new to it.
        return not (news and r.loaded) or number > r.watermark or "announcements from before the view" in setup.without
    if number != revision(s, held):
        return number > revision(s, held)
    if entry == held:
        return False
    return as_of > r.held_as_of or "equal revisions" in setup.without


def _advanced(setup: Setup, watermark: int, ahead: tuple[int, ...], number: int) -> tuple[int, tuple[int, ...]]:
    """Move the watermark over what is applied without a gap."""
    if "gaps" in setup.without:
        return number, ()
    beyond = {*ahead, number}
    while watermark + 1 in beyond:
        watermark += 1
        beyond.remove(watermark)
    return watermark, tuple(sorted(beyond))


def contains(s: State, r: Replica, token: int) -> bool:
    """Whether everything up to a revision is held."""
    return r.loaded and r.watermark >= token
