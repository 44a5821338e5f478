"""The fields of a definition in flagd's format, as flagd's daemon takes them: their names and their types."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from ..errors import short_repr
from ..json_values import Path, kind
from ..model import JsonValue

_TYPES: Mapping[str, type] = {
    "key": str, "state": str, "defaultVariant": str, "source": str, "variants": dict, "metadata": dict,
}  # fmt: skip
_WANTED = {
    "key": "the flag's key, a string",
    "state": '"ENABLED" or "DISABLED"',
    "defaultVariant": "the name of a variant, or null",
    "source": "a string",
    "variants": "an object with at least one variant, all of one type: boolean, string, number or object",
    "metadata": "an object",
}
_FOLDED = {name.lower(): name for name in (*_TYPES, "targeting")}
Report = Callable[[Path, str], None]


def renamed(definition: Mapping[str, JsonValue], path: Path, warn: Report) -> dict[str, JsonValue]:
    """Return the fields under their right names: flagd reads `DefaultVariant` as `defaultVariant`."""
    fields: dict[str, JsonValue] = {}
    for given, value in definition.items():
        name = _FOLDED.get(given.lower(), given)
        if name != given:
            warn((*path, given), f"read as `{name}`, as in flagd; write it so")
        fields[name] = value
    return fields


def type_problems(definition: Mapping[str, JsonValue]) -> Iterator[tuple[str, str]]:
    """Yield the name and the problem of each field whose type makes flagd refuse the whole file."""
    for name, wanted in _TYPES.items():
        value = definition.get(name)
        if isinstance(value, wanted) or value is None or (name == "defaultVariant" and isinstance(value, bool)):
            continue
        found = short_repr(value) if wanted is str else type_name(value)
        yield name, f"{found}; it must be {_WANTED[name]}"


def empty_text(name: str, definition: Mapping[str, JsonValue]) -> str:
    """Return the text for a field that is missing or empty."""
    found = "missing" if name not in definition else "null" if definition[name] is None else "empty"
    return f"{found}; it must be {_WANTED[name]}"


def type_name(value: JsonValue) -> str:
    """Return the name of a value's type with its article."""
    name = kind(value)
    return name if name == "null" else f"an {name}" if name[0] in "aeiou" else f"a {name}"
