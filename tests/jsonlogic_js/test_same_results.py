"""The engine against json-logic-js itself: equal results, except for the differences that docs/targeting.md names.

JSONLOGIC_CASES is the number of cases compared, 200,000 in `make test-long`; ORACLE_SEED is the generator's seed.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from flagsvc.core.flagd.references import inlined
from flagsvc.core.targeting import RuleError, WrongRule, compile_rule
from flagsvc.core.targeting.forms import FORMS
from tests.jsonlogic_js.engine import Reference, Result, same
from tests.property.rules import Maker, operators
from tests.property.values import NUMBERS, TEXTS

CASES = int(os.environ.get("JSONLOGIC_CASES", "4000"))
SEED = os.environ.get("ORACLE_SEED", "json-logic-js 2.0.5")
BATCH = 500
OF_FLAGD = frozenset({"fractional", "sem_ver", "starts_with", "ends_with"})
NOW, KEY = 1_700_000_000, "flag"
VALUES: tuple[Any, ...] = (
    *(None, True, False, [], {}, [[]], [None], [""], ["a"], ["1"], [1], [1, 2], [True], [[1]], {"k": 1, "m": 2}),
    *("12abc", "-", "+1", "1.", ".5", "1_000", "\u00a02\ufeff", "\x1c2", "\x852", "\uff11", "2e400", "-Infinity", " "),
    *("0b1", "0o7", "-0x10", "😀b", "\uffff", "9007199254740993", "1234567890123456789", "z" * 300),
    *TEXTS,
    *NUMBERS,
)
_DIRECT = tuple(
    name for name in FORMS if name not in OF_FLAGD and name not in ("if", "?:", "and", "or", "map", "reduce")
)
Question = tuple[Any, dict[str, Any]]


def questions() -> Iterator[Question]:
    """Yield rules with contexts: every operator on odd values, and larger rules as they are generated for flags."""
    number = 0
    while True:
        pick = Random(f"{SEED}/{number}")
        if number % 2:
            yield _direct(pick)
        else:
            case = Maker(f"{SEED}/{number}").cases(1)[0]
            rule = inlined(case.rule, case.evaluators)
            if not any(name in OF_FLAGD for call in operators(rule) for name in call):
                yield rule, case.context
        number += 1


def _direct(pick: Random) -> Question:
    name = pick.choice(_DIRECT)
    context = {field: pick.choice(VALUES) for field in ("a", "b", "c")}
    arguments = [{"var": field} for field in ("a", "b", "c")]
    if name in ("filter", "all", "some", "none"):
        return {name: [{"var": "a"}, {"var": pick.choice(("", "0", "k"))}]}, context
    for index in range(3):
        if pick.random() < 0.3:
            constant = pick.choice(VALUES)
            arguments[index] = constant if not isinstance(constant, dict) or len(constant) != 1 else None  # type: ignore[call-overload]
    return {name: arguments[: pick.choice((1, 2, 2, 2, 3))]}, context


def ours(question: Question) -> Result | None:
    """Return this engine's result; None for a rule that it refuses."""
    rule, context = json.loads(json.dumps(question))  # no list of the rule is one of the context
    try:
        compiled = compile_rule(rule, KEY)
    except WrongRule:
        return None
    try:
        return "value", compiled.evaluate(context, NOW)
    except RuleError as error:
        return "error", str(error)


def difference(found: Result, wanted: Result) -> bool:
    return found[0] != wanted[0] or (found[0] == "value" and not same(found[1], wanted[1]))


def data_of(context: dict[str, Any]) -> dict[str, Any]:
    return {**context, "$flagd": {"flagKey": KEY, "timestamp": NOW}}


@pytest.mark.timeout(1800)
def test_rules_give_what_json_logic_js_gives(capsys: pytest.CaptureFixture[str]) -> None:
    source, seen, met = questions(), Counter[str](), Counter[str]()
    with Reference() as reference:
        while seen["compared"] < CASES:
            answered = [(each, result) for each in (next(source) for _ in range(BATCH)) if (result := ours(each))]
            seen["refused"] += BATCH - len(answered)
            asked = [(rule, data_of(context)) for (rule, context), _ in answered]
            plain = reference.results(asked, choices=False)
            differing = [i for i, (_, found) in enumerate(answered) if difference(found, plain[i])]
            chosen = dict(zip(differing, reference.results([asked[i] for i in differing], choices=True), strict=True))
            for index, wanted in chosen.items():
                question, found = answered[index]
                is_bounded = found[0] == "error" and "more than" in found[1]
                seen["bounds" if is_bounded else "choices"] += 1
                if difference(found, wanted) and not is_bounded:
                    pytest.fail(f"{question}: {found}, json-logic-js {plain[index]}, with our choices {wanted}")
            seen["compared"] += len(answered)
            met.update(name for (rule, _), _ in answered for call in operators(rule) for name in call)
    with capsys.disabled():
        print(f"\njson-logic-js: {dict(seen)}")  # noqa: T201
    assert all(met[name] > CASES / 400 for name in FORMS if name not in OF_FLAGD), "every operator must occur"
    assert seen["choices"] < seen["compared"] * 0.35, "most results must be json-logic-js's own"


NAMED = Path(__file__).with_name("choices.mjs").read_text()


def test_every_choice_is_documented_by_name() -> None:
    document = (Path(__file__).parents[2] / "docs" / "targeting.md").read_text()
    section = document.partition("### Where flagsvc differs from json-logic-js")[2].partition("\n\nIn ")[0]
    names = [line.split(" | ")[0].removeprefix("| ") for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(names) > 10
    assert {name for line in NAMED.splitlines() for name in re.findall(r'"([^"]+)"', line.partition("//")[2])} == set(
        names
    )
