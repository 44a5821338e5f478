"""What a flag needs of those who evaluate it. A flag that uses a new feature names it in its field `needs`.

Who does not know one of the names answers GENERAL, and passes on the fields that it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping

from .model import STORED_NAMES, Flag, JsonValue, Unknown

NEEDS = "needs"
"""The field of a document."""
ROLLOUT = "rollout-1"
PREREQUISITES = "prerequisites-1"
KNOWN = frozenset({ROLLOUT, PREREQUISITES})
"""What this release knows."""
_NAMES = frozenset({*STORED_NAMES.values(), NEEDS, "problem", "_id"})


def needs_of(flag: Flag) -> list[str]:
    """Return the names of what the flag needs, in order."""
    uses = {ROLLOUT: flag.rollout is not None, PREREQUISITES: bool(flag.prerequisites)}
    return sorted({*(name for name, used in uses.items() if used), *(flag.unknown.needs if flag.unknown else ())})


def unknown_in(document: Mapping[str, JsonValue]) -> Unknown | None:
    """Return what this release lacks of what a document needs; None if nothing is lacking."""
    needs = document.get(NEEDS)
    listed = needs if isinstance(needs, list) else [] if needs is None else [needs]
    lacking = tuple(str(name)[:80] for name in listed if not (isinstance(name, str) and name in KNOWN))
    if not lacking:
        return None
    return Unknown(lacking, {name: value for name, value in document.items() if name not in _NAMES})
