"""flagd's selector: which flag set a call means, and what of it the answer's metadata repeats."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from flagsvc.api.common.contexts import Metadata
from flagsvc.core.errors import InvalidRequest, Violation
from flagsvc.core.model import DEFAULT_SET

HEADER = "flagd-selector"
KEYS = ("flagSetId", "source")
_SHOWN = 80


class Selector(NamedTuple):
    """The flag set that is meant, and the selector as a field of metadata (empty for none)."""

    flag_set: str
    metadata: Mapping[str, str]


class InvalidSelector(InvalidRequest):
    """A selector names a key that there is not; the text is flagd's."""

    def __init__(self, key: str) -> None:
        valid = ", ".join(f'"{known}"' for known in KEYS)
        self._text = f'invalid selector key "{key[:_SHOWN]}", valid keys: {valid}'
        super().__init__([Violation(HEADER, self._text)], "INVALID_SELECTOR")

    def __str__(self) -> str:
        return self._text


def selector_of(metadata: Metadata, body: str = "") -> Selector:
    """Read the selector of a call: its header, else the field of its request. Raises InvalidSelector."""
    for name, value in metadata or ():
        if name == HEADER and value:
            return parsed(value)
    return parsed(body)


@lru_cache(maxsize=1_024)  # the same few come with every call
def parsed(text: str) -> Selector:
    """Read `flagSetId=X`, `source=X` or a bare X; without a value it is the default set. Raises InvalidSelector."""
    key, equals, value = text.partition("=")
    if not equals:
        key, value = "source", text
    if key not in KEYS:
        raise InvalidSelector(key)
    return Selector(value or DEFAULT_SET, {key: value} if value else {})
