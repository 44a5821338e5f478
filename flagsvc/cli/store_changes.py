"""What imports and exports do with a store: read it, and carry out a plan of changes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from flagsvc.core.changes import Author, Decide, delete
from flagsvc.core.errors import FlagsvcError
from flagsvc.core.model import Change, Flag, FlagId
from flagsvc.ports import FlagCache, FlagStore
from flagsvc.replication.publish import publish_change

_MAX_SHOWN = 20


class BadFile(FlagsvcError):
    """The file cannot be imported; the text has a line for each problem."""

    @classmethod
    def of(cls, path: str, problems: Sequence[str]) -> Self:
        """Tell the first problems, and how many more there are."""
        more = len(problems) - _MAX_SHOWN
        rest = [f"and {more} more"] if more > 0 else []
        return cls("\n".join([f"{path}: nothing was imported", *problems[:_MAX_SHOWN], *rest]))


class Planned(NamedTuple):
    """A change to make, decided when the flag's current state is known."""

    flag_id: FlagId
    decide: Decide


@dataclass(slots=True)
class Result:
    """What an import did."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0

    @property
    def total(self) -> int:
        """Flags in the file."""
        return self.created + self.updated + self.unchanged

    def count(self, flag_id: FlagId, change: Change | None) -> None:
        """Count one planned change by what became of it."""
        del flag_id
        if change is None:
            self.unchanged += 1
        elif change.after is None:
            self.deleted += 1
        elif change.before is None:
            self.created += 1
        else:
            self.updated += 1


def read_bytes(path: str) -> bytes:
    """Read a file, or standard input for `-`. Raises BadFile."""
    try:
        return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise BadFile(f"{path}: cannot be read: {error.strerror}") from None


async def flags_of(store: FlagStore) -> list[Flag]:
    """Open a store, read all its flags, and close it."""
    await store.open()
    try:
        return list((await store.load()).flags)
    finally:
        await store.close()


def prune(stored: Iterable[Flag], kept: Iterable[FlagId], author: Author) -> list[Planned]:
    """Plan to delete what is stored but not kept, in the sets that the kept flags are of."""
    ids = set(kept)
    sets = {flag_id.flag_set for flag_id in ids}
    gone = [flag.id for flag in stored if flag.flag_set in sets and flag.id not in ids]
    return [Planned(flag_id, _delete(flag_id, author)) for flag_id in gone]


def preview(planned: Iterable[Planned], stored: Iterable[Flag], seen: Callable[[FlagId, Change | None], None]) -> None:
    """Tell what each planned change would do, in the plan's order."""
    current = {flag.id: flag for flag in stored}
    for flag_id, decide in planned:
        seen(flag_id, decide(current.get(flag_id)))


async def carry_out(
    planned: Sequence[Planned],
    store: FlagStore,
    cache: FlagCache | None,
    seen: Callable[[FlagId, Change | None], None],
) -> None:
    """Make each change in an open store, and let the shared cache and every replica know."""
    for flag_id, decide in _progress(planned):
        made: list[Change | None] = []

        def decided(current: Flag | None, decide: Decide = decide, made: list[Change | None] = made) -> Change | None:
            made[:] = [decide(current)]  # a store that lost a race decides once more
            return made[0]

        entry = await store.write(flag_id, decided)
        seen(flag_id, made[0] if made else None)
        if entry is not None:
            await publish_change(cache, entry)


def _delete(flag_id: FlagId, author: Author) -> Decide:
    def decide(current: Flag | None) -> Change | None:
        return delete(flag_id.key, None, author)(current) if current is not None else None

    return decide


def _progress(planned: Sequence[Planned]) -> Iterator[Planned]:
    if not sys.stderr.isatty():
        yield from planned
        return
    from rich.console import Console  # noqa: PLC0415  only a terminal needs it
    from rich.progress import track  # noqa: PLC0415

    yield from track(planned, "importing", console=Console(stderr=True))
