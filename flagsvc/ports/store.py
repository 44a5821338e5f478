"""The source of truth, and the change feed of one that other programs write to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from flagsvc.core.changes import Author, Decide
from flagsvc.core.model import FlagId, HistoryEntry
from flagsvc.core.requests import WriteRequest
from flagsvc.ports.audit import AuditStore
from flagsvc.ports.changes import Entry, Family, StoreContents, StoreEvent, StoreIdentity
from flagsvc.ports.reports import Problem
from flagsvc.ports.revisions import DecideAll, RevisionStore, RolledBack
from flagsvc.ports.schedules import ScheduleStore
from flagsvc.ports.segments import SegmentStore
from flagsvc.ports.tokens import TokenStore


class ChangesUnsupported(Exception):
    """The store cannot report changes; it has to be read again and again instead.

    `problem`: why a store that could do so does not; None where its kind has no change stream.
    """

    def __init__(self, problem: Problem | None = None) -> None:
        super().__init__(problem.detail if problem else "")
        self.problem = problem


class ChangeFeed(Protocol):
    """What a store offers whose flags other programs may change without counting revisions."""

    @property
    def stream_up(self) -> bool:
        """Whether the change stream delivers now."""

    @property
    def stream_restarts(self) -> int:
        """How often it broke."""

    def changes(self) -> AsyncIterator[StoreEvent]:
        """Deliver what changes in the store, by whomever, for ever; failures are restarted inside, with backoff.

        Subscribed comes after each (re)start that may have missed something. Raises ChangesUnsupported, at once or
        later.
        """

    async def save_resume_token(self) -> None:
        """Save how far `changes` has delivered, so that a later process resumes there."""

    async def assign_revision(self, flag_id: FlagId, revision: int) -> Entry | None:
        """Give a flag that still has this revision (or is gone) the next one, atomically. None: it has another by now.

        Raises StoreUnavailable and WritesUnsupported.
        """


class FlagStore(Protocol):
    """The source of truth. Every method raises StoreUnavailable when it cannot be asked in time."""

    poll_interval_s: float
    """Seconds between two polls where no channel reports changes."""
    reads: int
    """Queries sent, for metrics."""

    @property
    def feed(self) -> ChangeFeed | None:
        """The store's change feed; None where every writer counts revisions."""

    @property
    def identity(self) -> StoreIdentity | None:
        """Which store this is, as `open`, `load` or `revisions` last read it; None where it has no identity."""

    @property
    def tokens(self) -> TokenStore | None:
        """The store's tokens; None where it keeps none."""

    @property
    def audit(self) -> AuditStore | None:
        """The store's audit entries; None where it keeps none."""

    @property
    def definitions(self) -> RevisionStore | None:
        """The store's revisions; None where it keeps none, because it takes no writes."""

    @property
    def schedules(self) -> ScheduleStore | None:
        """The store's schedules; None where it cannot plan changes."""

    @property
    def segments(self) -> SegmentStore | None:
        """The store's segments; None where it takes no writes."""

    def problems(self) -> Sequence[Problem]:
        """Return what is wrong with the contents, for the status."""

    async def renew_identity(self) -> None:
        """Replace the store's identity, so that nothing kept elsewhere counts as its own any more.

        Raises StoreUnavailable and WritesUnsupported.
        """

    async def open(self) -> None:
        """Prepare (indexes, tables), and read or make the identity. May be called again, also after a failure."""

    async def close(self) -> None:
        """Release everything; no method may be called after."""

    async def get(self, flag_id: FlagId) -> Entry:
        """Read one flag, never from a secondary. A missing one has the revision that its set had at that time."""

    async def get_family(self, flag_id: FlagId) -> Family:
        """Read one flag and all flags that it depends on, with the revision of their set, as of one moment.

        At most MAX_DEPTH flags in a row are read: the evaluation refuses longer chains.
        """

    async def load(self) -> StoreContents:
        """Read everything."""

    async def revisions(self) -> Mapping[str, int]:
        """Read the newest revision of each flag set: cheap, to see whether anything changed.

        Linearizable where there is more than one member: a primary that was replaced fails instead of answering.
        """

    async def write(self, flag_id: FlagId, decide: Decide, request: WriteRequest | None = None) -> Entry | None:
        """Decide and store, with history, audit and definition, as one atomic step; None when there was nothing to do.

        `request`: the write is remembered with it, in the same step; where it was made before, what it stored then is
        returned, and nothing is decided. Raises InvalidRequest where the id is another write's.

        A definition gets the bucketing of its set. The new revision is larger than every revision of the flag set
        before it, and revisions become visible in their order. A definition also gets the segments that it refers to,
        and dependencies are checked (`core.prerequisites.checks`). Raises what `decide` and these checks raise (nothing
        is changed then) and WritesUnsupported.
        """

    async def preview(self, flag_id: FlagId, decide: Decide) -> Entry:
        """Return what `write` would store, with the revision of now, and store nothing. Raises what `write` raises."""

    async def roll_back(
        self,
        flag_set: str,
        revision: int,
        decide: DecideAll,
        author: Author,
        *,
        dry_run: bool,
        request: WriteRequest | None = None,
    ) -> RolledBack:
        """Decide about the flags of a set that have changed after a revision, and store all, as one atomic step.

        Segments that have changed after it get their rules and descriptions back, in the same step. `dry_run`: store
        nothing. `request`: as in `write`. Raises what `decide` raises, RevisionOutOfRange, NotRestorable, SegmentInUse
        and WritesUnsupported.
        """

    async def bucketing(self, flag_set: str) -> int:
        """Read the version that the set's splits get when they are written: 2 unless `set_bucketing` was called."""

    async def set_bucketing(self, flag_set: str, version: int) -> None:
        """Store the set's version. Every definition that gets a revision from then on gets this version with it.

        Raises WritesUnsupported.
        """

    async def history(self, flag_id: FlagId, limit: int) -> list[HistoryEntry]:
        """Read a flag's changes, the newest first; empty for an unknown key.

        Raises AnswerTooLarge where they take more than `MAX_HISTORY_BYTES`.
        """
