"""Which flag set each of flagd's selectors selects, and what a set's flags have as metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..model import DEFAULT_SET, Flag, JsonValue
from .reading import SET_NAME
from .writing import metadata_of

SOURCE = "source"
"""The selector's key for the file that flags come from."""


class NamedSets:
    """The sets of a store in which each flag has its set's name. To flagd's clients its name is its source too."""

    def selected(self, key: str, value: str) -> str:  # noqa: ARG002  files have a set by either key
        """Return the name of the set that the selector `key=value` selects."""
        return value or DEFAULT_SET

    def metadata_of(self, flag: Flag) -> Mapping[str, JsonValue]:
        """Return a flag's metadata, which names its set."""
        return metadata_of(flag) | dict(flag.metadata)


NAMED_SETS = NamedSets()


class FileSets(NamedSets):
    """The sets of flags from files, as flagd has them.

    `default` has all flags; of two with one key, the later file's. X has those whose metadata has the flagSetId X,
    `flagSetId=` those without one, and `source=FILE` those of a file.
    """

    def __init__(self, sources: Sequence[str]) -> None:
        self._sources = sources

    def selected(self, key: str, value: str) -> str:
        """Return the name of the set that the selector `key=value` selects."""
        if key == SOURCE:
            return DEFAULT_SET if [value] == list(self._sources) else f"{key}={value}"
        return f"{key}={value}" if value in ("", DEFAULT_SET) else value

    def of(self, flag: Flag, source: str) -> tuple[str, ...]:
        """Return the names of the sets that a flag of a file belongs to."""
        named = self.selected(SET_NAME, str(flag.metadata.get(SET_NAME, "")))
        return tuple(dict.fromkeys((DEFAULT_SET, named, self.selected(SOURCE, source))))

    def metadata_of(self, flag: Flag) -> Mapping[str, JsonValue]:
        """Return a flag's metadata as it is in its file."""
        return flag.metadata
