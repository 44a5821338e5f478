"""Reads the objects of a configuration file, each field once, so that what is misspelt is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from flagsvc.core.errors import invalid
from flagsvc.core.model import JsonValue

T = TypeVar("T")
MAX_CHARS = 2_000


class Fields:
    """One object of a file. `name`: its place, for errors, such as `issuers[0]`; empty for the whole file."""

    def __init__(self, value: JsonValue, name: str) -> None:
        if not isinstance(value, dict):
            raise invalid(name or "the file", value, "an object with named fields")
        self.name = name
        self._values: dict[str, JsonValue] = dict(value)
        self._known: list[str] = []

    def __contains__(self, field: str) -> bool:
        return field in self._values

    def path(self, field: str) -> str:
        """Return a field's place, for errors."""
        return f"{self.name}.{field}" if self.name else field

    def take(self, field: str, default: JsonValue = None) -> JsonValue:
        """Return a field's value as it is."""
        self._known.append(field)
        return self._values.pop(field, default)

    def text(self, field: str, about: str, *, needed: bool = True) -> str:
        """Return a text; an empty one where the field is missing and not needed. `about`: what it must be, for errors.

        Raises InvalidRequest.
        """
        if not needed and field not in self._values:
            self._known.append(field)
            return ""
        value = self.take(field)
        if not isinstance(value, str) or not 0 < len(value) <= MAX_CHARS or not value.isprintable():
            raise invalid(self.path(field), value, about)
        return value

    def flag(self, field: str) -> bool:
        """Return true or false; false where the field is missing. Raises InvalidRequest."""
        value = self.take(field, False)
        if not isinstance(value, bool):
            raise invalid(self.path(field), value, "true or false")
        return value

    def each(self, field: str, read: Callable[[Fields], T], most: int, least: int = 0) -> tuple[T, ...]:
        """Return what `read` makes of each object in a list. Raises InvalidRequest."""
        value = self.take(field, [])
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise invalid(self.path(field), _count(value), f"a list of {least} to {most} objects")
        return tuple(read(Fields(each, f"{self.path(field)}[{at}]")) for at, each in enumerate(value))

    def texts(self, field: str, about: str, most: int) -> tuple[str, ...]:
        """Return one or more texts: a list, or one without a list. Raises InvalidRequest."""
        value = self.take(field)
        values = value if isinstance(value, list) else [value]
        if not 0 < len(values) <= most or not all(isinstance(each, str) and each for each in values):
            raise invalid(self.path(field), value, about)
        return tuple(values)

    def end(self) -> None:
        """Raise InvalidRequest if a field is left that nobody has read."""
        for field in self._values:
            raise invalid(self.path(field), "given", f"left out: the fields here are {', '.join(self._known)}")


def _count(value: Any) -> object:
    return f"{len(value)} entries" if isinstance(value, list) else value
