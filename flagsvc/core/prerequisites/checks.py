"""Which dependencies may be stored. A store calls this in the transaction of a change, with the graph of its set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..errors import FlagInUse, InvalidRequest, Violation, short_repr
from ..model import Change, Flag, JsonValue
from .definition import FIELD, MAX_DEPTH, BadPrerequisites, Prerequisite, keys_in, prerequisites_of
from .graph import Cycle, children_in, height_of

Graph = Mapping[str, JsonValue]
"""From a key to the stored prerequisites of this flag, for each flag of a set that has any."""


def needs_graph(changes: Sequence[Change]) -> bool:
    """Whether the changes may break a dependency, or make one."""
    return any(_new_prerequisites(change) or _lost_variants(change) for change in changes)


def parents_of(changes: Sequence[Change]) -> list[str]:
    """Return the keys of the flags on which changed flags come to depend, each once."""
    found = (each.flag_key for change in changes for each in _new_prerequisites(change))
    return list(dict.fromkeys(found))


def check(changes: Sequence[Change], graph: Graph, stored: Mapping[str, Flag]) -> None:
    """Refuse changes of one set that break a dependency, or make one that cannot be.

    `graph`: before the changes. `stored`: the flags of `parents_of` that exist before them. Raises FlagInUse, and
    InvalidRequest for a prerequisite that does not exist, a cycle or a chain that is too long.
    """
    after = {_key(change): change.after for change in changes}
    flags = {**stored, **after}
    edges = {key: value for key, value in graph.items() if key not in after}
    edges |= {key: flag.prerequisites for key, flag in after.items() if flag is not None and flag.prerequisites}
    named = {key: keys_in(value) for key, value in edges.items()}
    children = children_in(named)
    for change in changes:
        if lost := _lost_variants(change):
            _refuse_use(change, lost, {child: edges[child] for child in children.get(_key(change), ())})
        if wanted := _new_prerequisites(change):
            _refuse_wrong(wanted, flags)
            _refuse_chain(_key(change), named, children)


def _refuse_use(change: Change, lost: frozenset[str], users: Graph) -> None:
    key = _key(change)
    using = [child for child, value in users.items() if change.after is None or _wants(value, key) & lost]
    if using:
        raise FlagInUse(key, sorted(using), lost if change.after is not None else frozenset())


def _refuse_wrong(wanted: Sequence[Prerequisite], flags: Mapping[str, Flag | None]) -> None:
    if found := list(_wrong(wanted, flags)):
        raise InvalidRequest(found)


def _wrong(wanted: Sequence[Prerequisite], flags: Mapping[str, Flag | None]) -> Iterator[Violation]:
    for index, each in enumerate(wanted):
        parent = flags.get(each.flag_key)
        if parent is None:
            text = "the key of a flag that exists in the same flag set"
            yield Violation(f"{FIELD}[{index}].flagKey", short_repr(each.flag_key), text)
            continue
        names = list(parent.effective_variants)
        for position, name in enumerate(each.variants):
            if name not in names:
                text = f"a variant of {short_repr(each.flag_key)}: {', '.join(names[:10])}"
                yield Violation(f"{FIELD}[{index}].variants[{position}]", short_repr(name), text)


def _refuse_chain(key: str, parents: Mapping[str, Sequence[str]], children: Mapping[str, Sequence[str]]) -> None:
    try:
        height = height_of(key, lambda each: parents.get(each, ()))
        depth = height_of(key, lambda each: children.get(each, ()))
    except Cycle as error:
        text = "flags that do not depend on themselves"
        raise InvalidRequest([Violation(FIELD, str(error).removeprefix("they "), text)]) from None
    if height + depth > MAX_DEPTH:
        text = f"a chain of at most {MAX_DEPTH}"
        raise InvalidRequest([Violation(FIELD, f"part of a chain of {height + depth} prerequisites", text)])


def _key(change: Change) -> str:
    flag = change.after or change.before
    return flag.key if flag is not None else ""


def _new_prerequisites(change: Change) -> tuple[Prerequisite, ...]:
    """Return the prerequisites of a flag that gets others than it had. Malformed ones, which were stored, are none."""
    after, before = change.after, change.before
    if after is None or not after.prerequisites or (before and before.prerequisites == after.prerequisites):
        return ()
    try:
        return prerequisites_of(after.prerequisites)
    except BadPrerequisites:
        return ()


def _lost_variants(change: Change) -> frozenset[str]:
    if change.before is None:
        return frozenset()
    left = change.after.effective_variants if change.after is not None else {}
    return frozenset(change.before.effective_variants) - frozenset(left)


def _wants(value: JsonValue, key: str) -> set[str]:
    parts = [each for each in value if isinstance(each, dict) and each.get("flagKey") == key]
    return {name for each in parts for name in each.get("variants") or () if isinstance(name, str)}
