"""Exported flags with prerequisites and segments: flagd's engines give everybody the variant that flagsvc gives.

`-s` shows how many of the 20,000 graphs were compared and what was refused. Go is asked by `make languages`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from flagsvc.core.flagd.prerequisites import MAX_CHARACTERS, NOT_EXPORTED
from tests.dependencies.engines import HAND_MADE, Worlds, compared, exported, in_node, in_python, ruled, split
from tests.dependencies.graphs import MANY, world
from tests.dependencies.test_family import on
from tests.sizes import examples

CASES = 60
ENGINES = pytest.mark.parametrize(("engine", "bucketing"), [(in_python, 3), (in_node, 2)], ids=["python", "node"])


@pytest.fixture(scope="module")
def worlds() -> Worlds:
    return Worlds([HAND_MADE, *(world(seed).flags for seed in range(examples(CASES)))])


@pytest.fixture
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@ENGINES
@pytest.mark.usefixtures("quiet")
def test_an_engine_of_flagd_gives_the_same_variants(worlds: Worlds, engine: Any, bucketing: int) -> None:
    found = engine(worlds)
    assert worlds.differences(bucketing, found) == []
    assert {variant for each in found.values() for variant in each} >= {None, "on", "off"}


@ENGINES
@pytest.mark.usefixtures("quiet")
@pytest.mark.long
@pytest.mark.timeout(3600)
def test_many_graphs_in_an_engine_of_flagd(engine: Any, bucketing: int) -> None:
    print(f"\n{engine.__name__}, bucketing {bucketing}, {compared(MANY, bucketing, engine)}")  # noqa: T201


def test_what_is_refused_is_disabled_and_says_why(worlds: Worlds) -> None:
    assert len(worlds.names()) > examples(CASES) < len(worlds.refused)
    texts = "\n".join(worlds.refused)
    for part in ("depend on themselves", "the rule may choose '7', which has no value", "of its prerequisite"):
        assert part in texts


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ({"fractional": [["on", 1], ["off", 1]]}, "a split does not name the text that it hashes"),
        (split({"var": "email"}, on=1, off=1), "a split does not name the text that it hashes"),
        ({"if": [{"some": [{"var": "l"}, {"fractional": [["on", 1]]}]}, "on"]}, "a split does not name the text"),
        ({"if": [{"var": ""}, "on"]}, "reads the whole context"),
        ({"if": [{"var": {"var": "x"}}, "on"]}, "fields that are not known before"),
        ({"if": [{"var": ["a", {"var": "$flagd"}]}, "on"]}, "reads the whole context"),
        ({"var": "plan"}, "choose otherwise than by conditions, splits and names"),
        ({"if": [True, "none"]}, "the rule may choose 'none', which has no value"),
        (split(on=1, none=1), "the rule may choose 'none', which has no value"),
    ],
)
def test_a_rule_that_may_decide_otherwise_elsewhere_is_not_written(rule: Any, why: str) -> None:
    flags = {each.key: each for each in (on("child", "parent"), ruled("parent", rule))}
    sent = exported(flags)["child"]
    member = json.loads("{" + sent.text + "}")["child"]
    assert why in sent.problem
    assert (member["state"], why in member["metadata"][NOT_EXPORTED], "targeting" in member) == (
        "DISABLED",
        True,
        False,
    )


def test_a_flag_below_a_flag_in_error_and_one_whose_rule_would_be_too_long_are_not_written() -> None:
    broken = {each.key: each for each in (on("child", "parent"), on("parent", targeting="{"))}
    assert "of its prerequisite 'parent', the evaluation is an error" in exported(broken)["child"].problem
    layers = {"0": ruled("0", {"if": [{"==": [{"var": "plan"}, "x" * 100]}, "on", "off"]})}
    for n in range(1, 10):  # each layer has all of the one above it, many times
        layers |= {f"{n}": on(f"{n}", f"{n - 1}", f"{n - 1}b"), f"{n}b": on(f"{n}b", f"{n - 1}", f"{n - 1}b")}
    layers["0b"] = ruled("0b", {"if": [{"==": [{"var": "plan"}, "y" * 100]}, "on", "off"]})
    sizes = [len(exported(layers)[str(n)].text) for n in (1, 2, 3)]
    assert sizes[0] < sizes[1] < sizes[2] < MAX_CHARACTERS
    assert "characters as a rule" in exported(layers)["9"].problem
