"""Which segments a rule refers to."""

from __future__ import annotations

from .flagd.references import refs
from .json_values import NotJson, strict_loads

PREFIX = "segment:"
"""A rule refers to a segment by `{"$ref": "segment:NAME"}`: it is an evaluator of this name in each definition."""


def direct(text: str) -> list[str]:
    """Return the names of the segments that a rule refers to itself, each once. A text that is not JSON has none."""
    if PREFIX not in text and "\\u" not in text:  # JSON can escape every character of the name
        return []
    try:
        rule = strict_loads(text)
    except NotJson:
        return []
    return list(dict.fromkeys(name.removeprefix(PREFIX) for name, _ in refs(rule) if name.startswith(PREFIX)))
