"""Which dependencies may be stored: the decision that stores make in their transactions."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from flagsvc.core import changes
from flagsvc.core.errors import FlagInUse, InvalidRequest
from flagsvc.core.model import Change, Flag, Status
from flagsvc.core.prerequisites.checks import check, needs_graph, parents_of

AT = datetime(2026, 11, 30, tzinfo=UTC)
AUTHOR = changes.Author(AT)


def on(key: str, *parents: str, variants: tuple[str, ...] = ("on",)) -> Flag:
    prerequisites = [{"flagKey": parent, "variants": list(variants)} for parent in parents]
    return Flag(key=key, status=Status.ENABLED, prerequisites=prerequisites or None)


def depending(flag: Flag, *parents: str, variants: tuple[str, ...] = ("on",)) -> Change:
    wanted = replace(flag, prerequisites=on(flag.key, *parents, variants=variants).prerequisites)
    found = changes.update(wanted, ["prerequisites"], None, AUTHOR)(flag)
    assert found is not None
    return found


def decided(*wanted: Change, flags: list[Flag]) -> None:
    there = {flag.key: flag for flag in flags}
    graph = {flag.key: flag.prerequisites for flag in flags if flag.prerequisites}
    check(wanted, graph, {key: there[key] for key in parents_of(wanted) if key in there})


def problem(*wanted: Change, flags: list[Flag]) -> str:
    with pytest.raises(InvalidRequest) as refused:
        decided(*wanted, flags=flags)
    return str(refused.value)


def test_only_what_can_break_a_dependency_reads_the_graph() -> None:
    flag = on("a", "b")
    toggled = changes.toggle("a", False, None, AUTHOR)(flag)
    assert toggled is not None
    assert not needs_graph([toggled])
    assert needs_graph([depending(on("a"), "b")])
    assert not needs_graph([depending(flag)])
    deleted = changes.delete("a", None, AUTHOR)(flag)
    assert deleted is not None
    assert needs_graph([deleted])


def test_a_parent_and_its_variants_have_to_exist() -> None:
    text = "flag.prerequisites[0].flagKey is 'b'; it must be the key of a flag that exists in the same flag set"
    assert problem(depending(on("a"), "b"), flags=[on("a")]) == text
    found = problem(depending(on("a"), "b", variants=("on", "blue")), flags=[on("a"), on("b")])
    assert found == "flag.prerequisites[0].variants[1] is 'blue'; it must be a variant of 'b': on, off"
    decided(depending(on("a"), "b"), flags=[on("a"), on("b")])


def test_a_cycle_is_refused_with_its_path() -> None:
    flags = [on("a"), on("b", "a"), on("c", "b")]
    assert "depend on themselves: a -> c -> b -> a;" in problem(depending(flags[0], "c"), flags=flags)
    assert "depend on themselves: a -> a;" in problem(depending(flags[0], "a"), flags=flags)


def test_a_chain_counts_what_is_above_and_what_is_below() -> None:
    above = [on("0"), *(on(str(i), str(i - 1)) for i in range(1, 6))]
    below = [on("x"), on("y", "x"), on("z", "y"), on("w", "z")]
    decided(depending(below[0], "5"), flags=[*above, *below])  # 5 above 5, x below it, and three below x
    longer = [*below, on("v", "w"), on("u", "v")]
    assert "part of a chain of 11 prerequisites" in problem(depending(below[0], "5"), flags=[*above, *longer])


def test_a_flag_in_use_cannot_be_deleted_nor_lose_a_variant_that_is_asked_for() -> None:
    parent = replace(on("p"), variants={"on": True, "off": False, "maybe": True}, default_variant="on")
    flags = [parent, on("b", "p"), on("a", "p")]
    deleted = changes.delete("p", None, AUTHOR)(parent)
    assert deleted is not None
    with pytest.raises(FlagInUse, match='it is a prerequisite of "a", "b"; change') as refused:
        decided(deleted, flags=flags)
    assert refused.value.users == ("a", "b")
    fewer = changes.update(replace(parent, variants={"on": True, "off": False}), ["variants"], None, AUTHOR)(parent)
    assert fewer is not None
    decided(fewer, flags=flags)
    other = replace(parent, variants={"off": False, "maybe": True}, default_variant="off")
    lost = changes.update(other, ["variants", "default_variant"], None, AUTHOR)(parent)
    assert lost is not None
    with pytest.raises(FlagInUse, match='its variants "on"'):
        decided(lost, flags=flags)


def test_changes_that_belong_together_are_checked_as_they_will_be() -> None:
    parent, child = on("p"), on("c", "p")
    gone: Any = [changes.delete(flag.key, None, AUTHOR)(flag) for flag in (parent, child)]
    decided(*gone, flags=[parent, child])
    made: Any = [changes.create(flag, AUTHOR)(None) for flag in (child, parent)]
    decided(*made, flags=[])
