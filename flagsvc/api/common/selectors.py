"""flagd's selector: the flag set of a call, and the metadata that repeats the selector in the response."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from flagsvc.api.common.callers import Metadata
from flagsvc.core.errors import InvalidRequest, Violation
from flagsvc.core.flagd.reading import SET_NAME
from flagsvc.core.flagd.sets import NAMED_SETS, SOURCE, NamedSets
from flagsvc.core.model import DEFAULT_SET
from flagsvc.core.shown_text import visible

HEADER = "flagd-selector"
KEYS = (SET_NAME, SOURCE)
_SHOWN = 80
_MAX_KEPT_CHARS = 300


class Selector(NamedTuple):
    """The selected flag set, and the selector as response metadata (empty without one), also as one text."""

    flag_set: str
    metadata: Mapping[str, str]
    text: str = ""


class InvalidSelector(InvalidRequest):
    """A selector with an unknown key; the text is flagd's."""

    def __init__(self, key: str) -> None:
        valid = ", ".join(f'"{known}"' for known in KEYS)
        self._text = f'invalid selector key "{visible(key[:_SHOWN])}", valid keys: {valid}'
        super().__init__([Violation(HEADER, self._text)], "INVALID_SELECTOR")

    def __str__(self) -> str:
        return self._text


class Selectors:
    """Reads the selectors of one listener's calls. `default_set`: the set of callers who send none."""

    def __init__(self, default_set: str | None = None, sets: NamedSets = NAMED_SETS) -> None:
        self.without = Selector(default_set or DEFAULT_SET, {})
        """The selector of a call that sends none."""
        self._sets = sets
        self._parsed = lru_cache(maxsize=1_024)(self._parse)  # callers repeat a few selectors

    def of(self, metadata: Metadata, body: str = "") -> Selector:
        """Return a call's selector: from its header, else from `body`, the request's field. Raises InvalidSelector."""
        for name, value in metadata or ():
            if name == HEADER and value:
                return self._read(value)
        return self._read(body) if body else self.without

    def _read(self, text: str) -> Selector:
        """Parse a selector; a long one, which names no set that can exist, is not kept. Raises InvalidSelector."""
        return self._parsed(text) if len(text) <= _MAX_KEPT_CHARS else self._parse(text)

    def _parse(self, text: str) -> Selector:
        """Parse `flagSetId=X`, `source=X` or `X`, which is a source. Raises InvalidSelector."""
        key, equals, value = text.partition("=")
        if not equals:
            key, value = SOURCE, text
        if key not in KEYS:
            raise InvalidSelector(key)
        return Selector(
            self._sets.selected(key, value), {key: value} if value else {}, f"{key}={value}" if value else ""
        )
