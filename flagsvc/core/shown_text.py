"""Texts that people read: which invisible characters a new one may not have, and how stored ones are printed.

A control character can clear a terminal, a bidirectional one can show `ffo` for `off`, and a zero-width one makes two
keys look alike. Joiners in emoji and in scripts that need them are visible in effect, and stay.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator

_ASCII = re.compile(r"[ -~]*")
_JOINERS = "\u200c\u200d"
_TAGGED_FLAG = re.compile("\U0001f3f4[\U000e0030-\U000e007a]{1,6}\U000e007f")
"""The flags of England, Scotland and Wales: a black flag and a region in invisible letters."""
_BLANK_LETTERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2065\u2800\u3164\uffa0")
"""Letters, marks and symbols that show nothing."""
_VISIBLE_FORMATS = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd")
_SHOWN = frozenset({"Zs", "Co", "Cn"})
"""Categories that Python takes for unprintable: wide spaces, private characters, and what a later Unicode has."""
_JOINED = frozenset({"So", "Sk", "Lo", "Mn", "Mc"})
"""Categories of what a joiner joins: symbols, skin tones, variation selectors, letters without case, and marks."""


def hidden_at(text: str, allowed: str = "") -> int | None:
    """Return the index of the first character that is not visible and not `allowed`; None if there is none."""
    return next(_hidden(text, allowed), None)


def visible(text: str, allowed: str = "") -> str:
    """Return the text with its hidden characters escaped, as in JSON."""
    if _ASCII.fullmatch(text):
        return text
    hidden = set(_hidden(text, allowed))
    return "".join(json.dumps(char)[1:-1] if at in hidden else char for at, char in enumerate(text)) if hidden else text


def problem(text: str, allowed: str = "") -> str | None:
    """Return what a new text must not have: the code point of its first hidden character, and where it is."""
    at = hidden_at(text, allowed)
    if at is None:
        return None
    return f"without the invisible character U+{ord(text[at]):04X} (character {at + 1})"


def _hidden(text: str, allowed: str) -> Iterator[int]:
    """Yield the index of each hidden character."""
    if _ASCII.fullmatch(text):
        return
    flags = [found.span() for found in _TAGGED_FLAG.finditer(text)]
    for at, char in enumerate(text):
        if char in allowed or char in _VISIBLE_FORMATS or (_shows(char) and char not in _BLANK_LETTERS):
            continue
        joins = char in _JOINERS and _joined(text[at - 1 : at]) and _joined(text[at + 1 : at + 2])
        if not joins and not any(start < at < end for start, end in flags):
            yield at


def _shows(char: str) -> bool:
    return char.isprintable() or unicodedata.category(char) in _SHOWN


def _joined(char: str) -> bool:
    return char != "" and unicodedata.category(char) in _JOINED and char not in _BLANK_LETTERS
