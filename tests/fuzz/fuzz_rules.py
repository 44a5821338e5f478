"""Coverage-guided fuzzing of rules and contexts: results must be the same as those of flagd's Python engine.

The bytes are two JSON texts separated by a line feed. `make fuzz` runs this in a separate environment.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random

import atheris

with atheris.instrument_imports(include=["flagsvc", "json_logic", "openfeature.contrib.tools.flagd"]):
    from flagsvc.api.flag_service.messages import explanation_to_message
    from flagsvc.core import json_values
    from flagsvc.core.evaluation import explain
    from flagsvc.core.json_values import NotJson, strict_loads
    from flagsvc.core.model import Flag, Status
    from flagsvc.core.targeting import RuleError, WrongRule, compile_rule
    from flagsvc.core.targeting.nodes import Run
    from tests.property.oracle import difference, silence

from tests.property.rules import Case, Maker
from tests.property.values import KINDS

MAX_BYTES = 4_096
BYTES_SHARE = 0.3
CONTEXT_SHARE = 0.6


def one(data: bytes) -> None:
    """Fail on any exception that is not a refusal, and on any difference that is not a documented choice."""
    try:
        rule_text, _, context_text = data.decode().partition("\n")
    except UnicodeDecodeError:
        return
    try:
        rule = strict_loads(rule_text)
        context = strict_loads(context_text) if context_text else {}
    except NotJson:
        return
    if not isinstance(context, dict) or json_values.problem(context):
        return
    try:
        compiled = compile_rule(rule, "flag")
        result = compiled.evaluate(context, 1.0)
    except WrongRule:
        return
    except RuleError as error:
        result = None
        if "more than" in str(error):
            return  # The oracle has no limits, and may take forever.
    flag = Flag(key="flag", status=Status.ENABLED, variants=KINDS["string"], targeting=rule_text)
    explanation_to_message(explain(flag, context, 1.0)[1])
    if not isinstance(rule, dict) or len(rule) != 1 or too_big(result):
        return
    case = Case("flag", rule, {}, "string", "on", "ENABLED", context)
    if found := difference(case):
        raise AssertionError(f"{found}\n{case}")


def mutated(data: bytes, limit: int, seed: int) -> bytes:
    """Change bytes, or replace a part of the rule by a generated one: most byte changes result in invalid JSON."""
    random = Random(seed)
    if random.random() < BYTES_SHARE:
        return atheris.Mutate(data, limit)
    rule_text, _, context_text = data.decode(errors="replace").partition("\n")
    maker = Maker(seed)
    try:
        rule = maker.grafted(json.loads(rule_text))
        context = json.loads(context_text) if random.random() < CONTEXT_SHARE else maker.context()
    except (ValueError, RecursionError):
        return atheris.Mutate(data, limit)
    made = "\n".join(json.dumps(part, separators=(",", ":")) for part in (rule, context)).encode()
    return made if len(made) <= limit else atheris.Mutate(data, limit)


def too_big(value: object) -> bool:
    """Whether comparing the value would take forever, as with lists that contain each other twice."""
    try:
        Run({}, 0.0).charge(value)
    except RuleError:
        return True
    return False


def seeds(folder: Path) -> None:
    """Write the initial corpus, from the property tests' generator."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(500):
        [case] = Maker(f"fuzz/{number}").cases(1)
        text = "\n".join(json.dumps(part, separators=(",", ":")) for part in (case.rule, case.context))
        (folder / f"generated-{number}").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    corpus = Path(sys.argv[1])
    if not corpus.is_file():  # A file is a finding to be reproduced.
        seeds(corpus)
    dictionary = Path(__file__).with_name("rules.dict")
    options = [*sys.argv, f"-dict={dictionary}", f"-max_len={MAX_BYTES}", "-timeout=20", "-rss_limit_mb=1500"]
    atheris.Setup(options, one, custom_mutator=mutated)
    with silence():
        atheris.Fuzz()
