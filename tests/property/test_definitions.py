"""Arbitrary definitions are either refused, or stored, evaluated, explained and sent without an exception."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from flagsvc.api.common.contexts import Contexts
from flagsvc.api.common.values import to_value
from flagsvc.api.flag_service.flag_messages import flag_from_message, flag_to_message
from flagsvc.api.flag_service.messages import explanation_to_message, put_evaluation
from flagsvc.core.errors import InvalidRequest
from flagsvc.core.evaluation import ErrorCode, Reason, ValueType, check_type, explain, prepare
from flagsvc.core.model import Flag, FlagId, Status
from flagsvc.core.targeting.forms import FORMS
from flagsvc.core.validation import validated
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from flagsvc.serving.reader import Evaluation
from flagsvc.view.entries import Source
from tests.property.rules import Maker
from tests.property.values import KINDS
from tests.sizes import examples

NOW = 1_700_000_000.0
texts = st.text(max_size=8)
sendable = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.integers(-3, 3)
    | st.floats()
    | texts
    | st.sampled_from(["on", "off", "a", "1.2.3", "$ref", "targetingKey"])
)
scalars = sendable | st.integers(-(2**70), 2**70)


def nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=3), max_leaves=12
    )


anything = nested(scalars)
operators = st.sampled_from([*FORMS, "$ref", "no_such", ""])
rules = st.recursive(
    scalars | st.fixed_dictionaries({"var": st.sampled_from(["a", "a.b", "", "targetingKey", "$flagd.flagKey", 0])}),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.builds(lambda name, arguments: {name: arguments}, operators, st.lists(inner, max_size=4) | inner)
        | st.dictionaries(texts, inner, max_size=3)
    ),
    max_leaves=20,
)
written = st.integers(0, 10**9).map(lambda seed: json.dumps(Maker(seed).cases(1)[0].rule))
rule_texts = (
    rules.map(json.dumps)
    | written
    | written
    | rules.map(lambda rule: json.dumps(rule, ensure_ascii=False))
    | st.text(max_size=20)
    | st.text('{}[]":,varif01 \\u', max_size=30)
)
names = st.sampled_from(["a", "n", "s", "l", "o", "ver", "targetingKey", "$flagd"])
contexts = st.dictionaries(texts | names, nested(sendable), max_size=5)
flags = st.builds(
    Flag,
    key=texts | st.just("k"),
    flag_set=texts | st.just("default"),
    status=st.sampled_from(Status),
    variants=st.dictionaries(texts | st.sampled_from(["on", "off"]), anything, max_size=3)
    | st.sampled_from([{}, *KINDS.values()]),
    default_variant=st.none() | texts | st.sampled_from(["on", "off"]),
    targeting=st.none() | rule_texts,
    evaluators=st.dictionaries(texts | st.just("a"), rule_texts, max_size=2),
    metadata=st.dictionaries(texts, scalars, max_size=2),
    config=anything,
    description=st.none() | texts,
)
fuzzed = settings(max_examples=examples(400), deadline=None, suppress_health_check=[HealthCheck.too_slow])


def written_flag(seed: int) -> Flag:
    """Return a flag such as people write. Most of them are valid."""
    [case] = Maker(seed).cases(1)
    return Flag(
        key=case.flag_key,
        status=Status.ENABLED,
        variants=KINDS[case.kind],
        default_variant=case.default_variant if case.default_variant != "no-such" else None,
        targeting=json.dumps(case.rule),
        evaluators={name: json.dumps(rule) for name, rule in case.evaluators.items()},
    )


definitions = flags | st.integers(0, 10**9).map(written_flag)


def use(flag: Flag, context: dict[str, Any]) -> None:
    """Do with a flag all that a server does to answer calls."""
    started = time.thread_time()
    for version in (2, 3):
        flag = replace(flag, bucketing=version)
        prepared = prepare(flag)
        outcome = prepared.fixed or prepared.evaluate(context, NOW)
        explained, explanation = explain(flag, context, NOW)
        assert repr(explained) == repr(outcome)
        assert (outcome.error_code is not None) == (outcome.reason is Reason.ERROR)
        assert outcome.variant is None or outcome.error_code is None
        explanation_to_message(explanation)
        for wanted in ValueType:
            typed = check_type(outcome, wanted)
            if typed.value is not None:
                assert typed.error_code is None
    assert time.thread_time() - started < 5


@fuzzed
@given(definitions, contexts)
def test_a_definition_out_of_a_store_never_breaks_an_evaluation(flag: Flag, context: dict[str, Any]) -> None:
    use(flag, context)


@fuzzed
@given(definitions, contexts)
def test_a_definition_is_refused_with_fields_or_can_be_stored_sent_and_evaluated(
    flag: Flag, context: dict[str, Any]
) -> None:
    stored = stored_or_refused(flag)
    event("refused" if stored is None else "stored")
    if stored is None:
        return
    assert validated(stored) == stored
    use(stored, context)
    sent = types.Flag.FromString(flag_to_message(stored).SerializeToString())
    again = flag_from_message(sent)
    assert json.dumps(flag_parts(again), sort_keys=True) == json.dumps(flag_parts(stored), sort_keys=True)
    prepared = prepare(again)
    outcome = prepared.fixed or prepared.evaluate(context, NOW)
    assert outcome.error_code is not ErrorCode.PARSE_ERROR, "a validated definition can be compiled"
    evaluation = Evaluation(FlagId(again.flag_set, again.key), outcome, again, 1, Source.NEAR, 0.0)
    put_evaluation(pb.FlagEvaluation(), evaluation)


def stored_or_refused(flag: Flag) -> Flag | None:
    try:
        return validated(flag)
    except InvalidRequest as refused:
        violations = refused.violations
    assert violations
    assert all(violation.field.startswith("flag.") for violation in violations)
    assert all(len(str(violation)) < 5_000 for violation in violations)
    return None


def flag_parts(flag: Flag) -> dict[str, Any]:
    return {
        name: getattr(flag, name)
        for name in ("key", "variants", "targeting", "evaluators", "metadata", "config", "description", "status")
    } | {"default_variant": flag.default_variant or None}


@settings(max_examples=examples(300), deadline=None)
@given(st.integers(0, 10**9))
def test_rules_that_people_could_have_written_survive_the_way_to_the_store(seed: int) -> None:
    [case] = Maker(seed).cases(1)
    flag = written_flag(seed)
    try:
        stored = validated(flag)
    except InvalidRequest:
        stored = flag
    message = types.EvaluationContext(targeting_key=case.context.get("targetingKey", ""))
    for name, value in case.context.items():
        if name != "targetingKey":
            message.attributes[name].CopyFrom(to_value(value))
    received = Contexts().of_message(message, tuple)
    direct = {name: value for name, value in case.context.items() if name != "targetingKey" or value}
    for context in (received, direct):
        first, second = prepare(stored), prepare(flag_from_message(flag_to_message(stored)))
        sent, stayed = (first.fixed or first.evaluate(context, NOW)), (second.fixed or second.evaluate(direct, NOW))
        assert replace(sent, message="") == replace(stayed, message=""), "a message may list fields in another order"
    use(stored, direct)
