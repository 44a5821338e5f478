"""Writes segments into definitions: a store calls it for every definition to which it gives a revision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..errors import InvalidRequest, Violation, short_repr
from ..evaluation import has_targeting
from ..model import Change, Flag
from ..segment_names import PREFIX, direct
from ..validation import check_rules

Rules = Mapping[str, str]
"""Rules of segments as JSON text, by name."""


def segments_of(flag: Flag) -> list[str]:
    """Return the names of the segments that a flag's own rules refer to, each once."""
    texts = [flag.targeting or ""] if has_targeting(flag) else []
    texts += [text for name, text in flag.evaluators.items() if not name.startswith(PREFIX)]
    return list(dict.fromkeys(name for text in texts for name in direct(text)))


def further(found: Rules, wanted: list[str]) -> list[str]:
    """Return the names that the found ones among `wanted` refer to, and that are not found yet. Raises InvalidRequest.

    A store reads `segments_of` a flag, then what these refer to, until there is nothing further.
    """
    if missing := [name for name in wanted if name not in found]:
        text = "the name of a segment of the flag set"
        raise InvalidRequest([Violation("flag.targeting", short_repr(PREFIX + name), text) for name in missing[:20]])
    names = dict.fromkeys(name for each in wanted for name in direct(found[each]))
    return [name for name in names if name not in found]


def stamp(flag: Flag, rules: Rules) -> Flag:
    """Return the flag with these segments, and no others, among its evaluators."""
    own = {name: text for name, text in flag.evaluators.items() if not name.startswith(PREFIX)}
    wanted = own | {PREFIX + name: rules[name] for name in sorted(rules)}
    return flag if wanted == flag.evaluators else replace(flag, evaluators=wanted)


def with_segments(change: Change, rules: Rules) -> Change:
    """Return the change of a flag that refers to these segments and to no others. Raises InvalidRequest.

    The history entry has the evaluators where they differ from what the change says.
    """
    if change.after is None or (after := stamp(change.after, rules)) is change.after:
        return change
    check_rules(after)
    new = {**(change.new or {}), "evaluators": dict(after.evaluators)}
    previous = change.previous
    if change.before is not None:
        previous = {**(previous or {}), "evaluators": dict(change.before.evaluators)}
    return replace(change, after=after, previous=previous, new=new)
