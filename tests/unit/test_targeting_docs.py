"""docs/targeting.md agrees with the engine: operators, their arguments, limits, and the tests of the choices."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from flagsvc.core import json_values, validation
from flagsvc.core.targeting import MAX_RULE_BYTES, compile_rule, compiler, nodes, operators, versions
from flagsvc.core.targeting.forms import FORMS

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "targeting.md").read_text()


def rows() -> dict[str, str]:
    """Return each operator's arguments according to the document's tables."""
    found = {}
    for line in DOCUMENT.partition("## Bounds")[0].splitlines():
        names, _, rest = line.removeprefix("| ").partition(" | ")
        if line.startswith("| `") and re.fullmatch(r"`[^`]+`(, `[^`]+`)*", names):
            for name in names.replace("`", "").split(", "):
                found[name] = rest.split(" | ")[0]
    return found


def test_every_operator_is_documented_and_none_else() -> None:
    documented = {name for name in rows() if not name.startswith("FLAGSVC_")}
    assert documented - {"$ref"} == set(FORMS)


def test_the_documented_numbers_of_arguments_are_those_that_are_checked() -> None:
    for name, operator in operators.OPERATORS.items():
        documented = rows()[name].partition(":")[0].removesuffix(" texts")
        if operator.max_args == sys.maxsize:
            actual = "any" if operator.min_args == 0 else f"{operator.min_args} or more"
        else:
            actual = " or ".join(str(count) for count in sorted({operator.min_args, operator.max_args}))
        assert documented == actual, name


def test_the_documented_bounds_are_those_that_hold() -> None:
    bounds = (
        MAX_RULE_BYTES,
        validation.MAX_CONTEXT_BYTES,
        validation.MAX_EVALUATORS,
        compiler.MAX_DEPTH,
        compiler.MAX_NODES,
        json_values.MAX_DEPTH,
        nodes.MAX_WORK,
        nodes.TEXT_STEP,
        nodes.MAX_STEPS,
        operators.MAX_TEXT,
        operators.MAX_LIST,
        versions.MAX_LENGTH,
    )
    section = DOCUMENT.partition("## Bounds")[2].partition("\n## ")[0]
    assert [bound for bound in bounds if f"{bound:,}" not in section] == []


def test_every_choice_names_a_test_that_is_there() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "tests" / "unit").glob("test_*.py"))
    table = DOCUMENT.partition("## Where flagd's languages disagree")[2]
    choices = [line for line in table.splitlines() if line.startswith("| ") and not line.endswith("| test |")]
    assert len(choices) > 20
    for choice in choices:
        [name] = re.findall(r"`(test_\w+)` \|$", choice)
        assert f"def {name}(" in sources


def test_every_rule_that_is_shown_compiles() -> None:
    shown = "".join(re.findall(r"^```json\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL))
    decoder, place, rules = json.JSONDecoder(), 0, []
    while place < len(shown):
        rule, place = decoder.raw_decode(shown, place)
        rules.append(rule)
        place += len(shown[place:]) - len(shown[place:].lstrip())
    assert len(rules) == 5
    for rule in rules:
        compile_rule(rule, "k")
