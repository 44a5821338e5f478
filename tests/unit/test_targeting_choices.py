"""The meaning of rules, operator by operator. Each row of the choices in docs/targeting.md has its test here."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flagsvc.core.evaluation import ErrorCode, prepare, variant_name
from flagsvc.core.model import Flag, Status
from flagsvc.core.targeting import WrongRule, compile_rule, compile_texts, problems_of
from tests.targeting import FAILS, NOW, result, var


def test_what_is_empty_is_false_also_an_object() -> None:
    assert [result({"!!": [falsy]}) for falsy in ({}, [], "", 0, None, False)] == [False] * 6
    assert [result({"!!": [truthy]}) for truthy in ("0", "false", [0], {"a": 1, "b": 2}, -1)] == [True] * 5
    assert result({"!!": [{"-": ["no number"]}]}) is False
    assert result({"if": [var("o"), "on", "off"]}, {"o": {}}) == "off"


def test_cat_writes_nothing_for_what_is_missing() -> None:
    assert result({"cat": ["b-", var("gone")]}) == "b-"
    assert result({"cat": [[1, None, [2]]]}) == "1,,2"


def test_cat_keeps_spaces_and_writes_values_as_javascript_does() -> None:
    assert result({"cat": [" a ", " ", True, 1.5, 2.0, {"a": 1, "b": 2}, [1, None]]}) == " a  true1.52[object Object]1,"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (1.5e300, "1.5e+300"),
        (1e-6, "0.000001"),
        (1e-7, "1e-7"),
        (-1.25e-9, "-1.25e-9"),
        (0.1, "0.1"),
        (-0.0, "0"),
        (123456789.125, "123456789.125"),
        (2**53 + 1, "9007199254740992"),
        (1234567890123456789, "1234567890123456800"),
    ],
)
def test_numbers_are_written_as_javascript_does(number: float, text: str) -> None:
    assert result({"cat": [var("n")]}, {"n": number}) == text


def test_null_equals_only_null() -> None:
    assert [result({"==": [var("gone"), other]}) for other in (0, False, "", [], None)] == [False] * 4 + [True]
    assert result({"==": [0, var("logins")]}, {"logins": None}) is False
    assert result({"!=": [var("gone"), 0]}) is True


def test_null_is_0_in_orderings_but_not_at_least_0() -> None:
    assert result({">": [var("gone"), -1]}) is True
    assert result({"<": [var("gone"), 1]}) is True
    assert [result({operator: [var("gone"), 0]}) for operator in ("<", "<=", ">", ">=")] == [False] * 4


def test_a_missing_field_is_on_no_side_of_a_text() -> None:
    for operator in ("<", "<=", ">", ">="):
        assert result({operator: [var("signup"), "2024-01-01"]}) is False
        assert result({operator: ["2024-01-01", var("signup")]}) is False
    assert result({">=": [var("signup"), "2024-01-01"]}, {"signup": "2024-05-01"}) is True


def test_an_empty_text_is_0() -> None:
    assert result({"==": ["", 0]}) is True
    assert result({"<": [var("n"), 10]}, {"n": ""}) is True
    assert result({"+": [var("n"), 1]}, {"n": ""}) == 1


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (" 2 ", 2),
        ("\u00a02\ufeff", 2),
        ("+5", 5),
        ("-0", 0),
        ("1.", 1),
        (".5", 0.5),
        ("1e3", 1_000),
        ("Infinity", float("inf")),
        ("1e400", float("inf")),
    ],
)
def test_texts_are_numbers_as_javascript_reads_them(text: str, number: float) -> None:
    assert result({"==": [var("t"), {"+": [number]}]}, {"t": text}) is True
    assert result({"+": [var("t"), 0]}, {"t": text}) == number


@pytest.mark.parametrize(
    "text", ["a", "12abc", "0x10", "1_000", "inf", "nan", "\uff11", "1e", ".", "1 2", "\x1c2", "9" * 257]
)
def test_other_texts_are_no_numbers(text: str) -> None:
    assert [result({o: [var("t"), n]}, {"t": text}) for o in ("==", "<", ">") for n in (0, 1, 16, 1_000)] == [
        False
    ] * 12
    for operator in ("+", "-", "*", "/", "%", "max", "min"):
        assert result({"==": [{operator: [var("t"), 1]}, {operator: [var("t"), 1]}]}, {"t": text}) is False, "NaN"


def test_strict_equality_knows_types() -> None:
    assert result({"===": [1, True]}) is False
    assert result({"===": [var("beta"), 1]}, {"beta": True}) is False
    assert result({"===": [1, 1.0]}) is True
    assert result({"===": [1, "1"]}) is False
    assert result({"===": [var("gone"), None]}) is True
    assert result({"==": [1, True]}) is True


def test_in_compares_strictly() -> None:
    assert result({"in": [1, [True]]}) is False
    assert [result({"in": [var("x"), [1, "a", None]]}, {"x": x}) for x in (1.0, "a", None, True, "1", [1])] == [
        True, True, True, False, False, False,
    ]  # fmt: skip
    assert result({"in": [0, var("l")]}, {"l": ["abc", False]}) is False
    assert [result({"in": [var("x"), "a1b null"]}, {"x": x}) for x in (1, None, "", "b n", True)] == [True] * 4 + [
        False
    ]
    assert result({"in": ["a", var("x")]}, {"x": {"a": 1}}) is False


def test_lists_and_objects_are_strictly_equal_only_to_themselves() -> None:
    context = {"l": [1], "o": {"a": 1}}
    assert result({"===": [var("l"), var("l")]}, context) is True
    assert result({"===": [var("l"), [1]]}, context) is False
    assert result({"in": [var("o"), [var("o")]]}, context) is True
    assert [result({"==": [var("l"), other]}, context) for other in (1, "1", True, var("l"), [1])] == [False] * 5
    assert [result({"==": [[], other]}) for other in (0, "", False, None, [])] == [True] * 3 + [False] * 2
    assert [result({"==": [other, []]}) for other in (0, "", False)] == [True] * 3


def test_nothing_is_below_or_above_a_list_or_an_object() -> None:
    for operator in ("<", ">", "<=", ">="):
        assert result({operator: [var("x"), 5]}, {"x": [7]}) is False
        assert result({operator: ["a", var("x")]}, {"x": {"a": 1, "b": 2}}) is False


def test_a_division_by_zero_is_infinite() -> None:
    assert result({">": [{"/": [1, var("gone")]}, 10**9]}) is True
    assert result({"<": [{"/": [-1, 0]}, -(10**9)]}) is True
    assert result({"==": [{"/": [0, 0]}, {"/": [0, 0]}]}) is False
    assert result({"==": [{"%": [5, var("x")]}, {"%": [5, var("x")]}]}, {"x": 0}) is False


def test_a_remainder_has_the_sign_of_the_dividend() -> None:
    assert result({"%": [var("n"), 3]}, {"n": -7}) == -1
    assert result({"%": [7, -3]}) == 1
    assert result({"%": [-7.5, 2]}) == -1.5
    assert result({"%": [var("gone"), 2]}) == 0


def test_numbers_that_overflow_are_infinite() -> None:
    assert result({"reduce": [[1] * 20, {"*": [var("accumulator"), 2**62]}, 1]}) == float(2**62) ** 16 * 2.0**248
    assert result({"*": [1e308, 10]}) == float("inf")


def test_large_integers_are_the_nearest_double_however_they_arrive() -> None:
    large = 1234567890123456789
    for given in (str(large), large, float(large), large + 1):
        assert result({"==": [var("member"), large]}, {"member": given}) is True
    for given in (large, float(large), large + 1):
        assert result({"===": [var("member"), large]}, {"member": given}) is True
        assert result({"in": [var("member"), ["x", large]]}, {"member": given}) is True
        assert result({">": [var("member"), large]}, {"member": given}) is False
    assert result({"<": [var("n"), 2**53]}, {"n": 2**53 - 1}) is True
    for given in (2**53, 2.0**53):
        assert result({"+": [var("n"), 1]}, {"n": given}) == 2**53


def test_arithmetic_with_null_and_booleans() -> None:
    assert result({"-": [var("score"), var("penalty")]}, {"score": 10}) == 10
    assert result({"-": [True]}) == -1
    assert result({"/": [var("gone"), 2]}) == 0
    assert result({"max": [var("gone"), -5]}) == 0
    for other in (None, True, {"a": 1, "b": 2}):
        for operator in ("+", "*"):
            assert result({">": [{operator: [other, 2]}, 0]}) is False
            assert result({"<=": [{operator: [other, 2]}, 0]}) is False
    assert result({"+": [var("l"), 1]}, {"l": ["3", 4]}) == 4
    assert result({"!!": [{"max": ["x", 1]}]}) is False


def test_nan_is_neither_below_nor_above() -> None:
    nan = {"+": ["no number"]}
    context = {"x": 5, "t": "abc"}
    for operator in ("<", "<=", ">", ">="):
        assert result({operator: [var("x"), nan]}, context) is False
        assert result({operator: [nan, var("x")]}, context) is False
        assert result({operator: [var("t"), 5]}, context) is False


def test_an_object_of_several_fields_is_a_literal() -> None:
    assert result({"a": [var("a"), 1], "b": 1}) == {"a": [var("a"), 1], "b": 1}


@pytest.mark.parametrize(
    ("condition", "path", "found"),
    [
        ({"==": [var("tier"), "gold"], "comment": "gold only"}, ".if[0]", "2 fields ('==', 'comment')"),
        ({"and": [{"==": [1, 1], "!=": [1, 2]}, True]}, ".if[0].and[0]", "2 fields ('==', '!=')"),
        ({"$ref": "staff", "note": "see wiki"}, ".if[0]", "2 fields ('$ref', 'note')"),
    ],
)
def test_a_condition_with_two_fields_is_refused_and_never_true(condition: Any, path: str, found: str) -> None:
    rule = {"if": [condition, "on", "off"]}
    wanted = f"${path}: an object with {found}; an operator must be its object's only field"
    variants = {"on": True, "off": False}
    assert [str(each) for each in problems_of(rule, "f", {"staff": True}, variants, variant_name)] == [wanted]
    flag = Flag(key="f", status=Status.ENABLED, variants=variants, default_variant="off", targeting=json.dumps(rule))
    outcome = prepare(flag).evaluate({"tier": "silver"}, 0.0)
    assert (outcome.error_code, outcome.value) == (ErrorCode.PARSE_ERROR, None)


def test_a_single_argument_needs_no_list() -> None:
    assert result({"if": "blue"}) == "blue"
    assert result({"if": var("reach")}, {"reach": "far"}) == "far"
    assert result({"!": var("reach")}, {"reach": ""}) is True


def test_an_if_without_else_gives_null() -> None:
    assert result({"if": [False, "on"]}) is None
    assert result({"if": [False, 1, False, 2, False, 3]}) is None
    assert result({"if": [var("x"), 1, var("y"), 2, 3]}, {"y": True}) == 2
    assert result({"?:": [True, 1, 2]}) == 1
    assert result({"if": [7]}) == 7


def test_paths_go_through_objects_lists_and_texts_but_not_to_names_with_dots() -> None:
    context = {"o": {"l": [{"k": 1}], "s": "abc"}, "a.b": 5}
    assert result(var("o.l.0.k"), context) == 1
    assert result(var("o.l.length"), context) == 1
    assert result(var("o.s.1"), context) == "b"
    assert result(var("a.b"), context) is None
    assert [result(var(path), context) for path in ("o.l.01", "o.l.-1", "o.l.1", "o.gone.k")] == [None] * 4


def test_a_default_stands_for_what_is_missing_or_null() -> None:
    assert result(var(["gone", 7]), {}) == 7
    assert result(var(["x", 7]), {"x": None}) == 7
    assert result(var(["x", 7]), {"x": 0}) == 0
    assert result(var(["o.k", 7]), {"o": {}}) == 7
    assert result(var(["gone", FAILS]), {"gone": 1}) == 1, "the default is evaluated only if it is needed"


def test_a_default_stands_for_a_whole_element_of_null() -> None:
    assert result({"map": [[None, 0], var(["", 7])]}) == [7, 0]
    assert result({"map": [[[None]], var([0, 7])]}) == [7]


def test_a_number_is_a_path_too() -> None:
    assert result(var(1), {"1": "one"}) == "one"
    assert result({"map": [var("l"), var(1.0)]}, {"l": [[5, 6], {"1": 7}]}) == [6, 7]


def test_the_whole_context_has_what_the_caller_sent_and_flagds_own_fields() -> None:
    assert result(var(""), {"a": 1}) == {"a": 1, "$flagd": {"flagKey": "my-flag", "timestamp": 1_700_000_000}}


def test_the_start_of_a_reduce_is_evaluated() -> None:
    assert result({"reduce": [[1], {"+": [var("accumulator"), var("current")]}, var("x")]}, {"x": 5}) == 6


def test_an_endless_index_is_beyond_the_end() -> None:
    endless = {"*": [1e300, 1e300]}
    assert result({"map": [[[1]], {"var": [endless, "none"]}]}) == ["none"]
    assert result({"substr": ["abc", endless]}) == ""
    assert result({"substr": ["abc", 0, endless]}) == "abc"


def test_log_gives_its_argument_and_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert result({"log": [var("secret")]}, {"secret": "s"}) == "s"
    assert capsys.readouterr() == ("", "")


def test_whole_float_weights_count() -> None:
    rule = {"fractional": [["a", {"+": [var("share")]}], ["b", 0]]}
    assert result(rule, {"share": 10.0, "targetingKey": "u"}) == "a"
    assert result(rule, {"share": 10.5, "targetingKey": "u"}) is None


def test_a_split_inside_a_loop_reads_the_contexts_targeting_key() -> None:
    rule = {"map": [var("l"), {"fractional": [["a", 1], ["b", 1]]}]}
    own = result({"fractional": [["a", 1], ["b", 1]]}, {"targetingKey": "user"})
    elements = [{"targetingKey": "other"}, 1]
    assert result(rule, {"targetingKey": "user", "l": elements}) == [own, own]
    assert result(rule, {"l": elements}) == [None, None]


def test_variants_and_weights_of_a_split_may_be_rules() -> None:
    share = [{"if": [var("beta"), "new", "old"]}, {"if": [var("beta"), 1, 0]}]
    rule = {"fractional": [share, ["rest", {"if": [var("beta"), 0, 1]}]]}
    assert result(rule, {"beta": True, "targetingKey": "u"}) == "new"
    assert result(rule, {"beta": False, "targetingKey": "u"}) == "rest"


@pytest.mark.parametrize(
    ("first", "test", "second", "held"),
    [
        ("1.2.3", "=", "1.2.3", True),
        ("v1.2.3", "=", "V1.2.3", True),
        ("1", "=", "1.0.0", True),
        ("1.2", "=", "1.2.0", True),
        (1.2, "=", "1.2.0", True),
        ("1.2.3+a", "=", "1.2.3+b", True),
        ("1.2.3-rc.2", "<", "1.2.3-rc.11", True),
        ("1.2.3-rc", "<", "1.2.3", True),
        ("1.10.0", ">", "1.9.0", True),
        ("1.9.9", "^", "1.0.0", True),
        ("0.9.9", "^", "0.1.0", True),
        ("1.2.9", "~", "1.2.0", True),
        ("1.3.0", "~", "1.2.0", False),
        ("1.2.3", "!=", "1.2.3", False),
        ("1.2.3.4", "=", "1.2.3", None),
        ("nonsense", "!=", "1.2.3", None),
        (None, "<", "1.0.0", None),
        ("1.2." + "3" * 300, ">", "1.0.0", None),
    ],
)
def test_versions_compare_as_semver_has_them(first: Any, test: str, second: Any, held: bool | None) -> None:
    assert result({"sem_ver": [var("v"), test, second]}, {"v": first}) is held
    assert result({"sem_ver": [var("v"), {"cat": [test]}, var("w")]}, {"v": first, "w": second}) is held


def test_starts_and_ends_are_of_texts_only() -> None:
    assert result({"starts_with": [var("x"), "ab"]}, {"x": "abc"}) is True
    assert result({"ends_with": [var("x"), "bc"]}, {"x": "abc"}) is True
    assert result({"starts_with": [var("x"), "1"]}, {"x": 12}) is None
    assert result({"ends_with": ["a", var("gone")]}) is None


def test_missing_some_takes_its_names_as_they_are() -> None:
    assert result({"missing_some": [1, ["a", "b"]]}, {"a": 1}) == []
    assert result({"missing_some": [2, ["a", "b"]]}, {"a": 1}) == ["b"]
    assert result({"missing_some": [1, [["a"], "b"]]}) == [["a"], "b"]
    assert result({"missing_some": [1, var("gone")]}) == []


def test_an_empty_text_is_not_missing() -> None:
    assert result({"missing": ["email", "a", "b"]}, {"email": "", "b": None}) == ["a", "b"]
    assert result({"missing_some": [1, ["email", "a"]]}, {"email": ""}) == []


def test_an_unknown_operator_or_a_wrong_number_of_arguments_refuses_the_whole_rule() -> None:
    with pytest.raises(WrongRule, match="unknown operator"):
        compile_rule({"if": [True, "on", {"no_such": [1]}]}, "f")
    with pytest.raises(WrongRule, match="must have 2 to 3"):
        compile_rule({"if": [True, "on", {"<": [1, 2, 3, 4]}]}, "f")


def test_a_rule_that_is_no_object_is_its_own_result() -> None:
    for text, expected in {'"on"': "on", "[]": [], "true": True, "1": 1, "null": None}.items():
        assert compile_texts(text, "f", {}).evaluate({}, NOW) == expected


@pytest.mark.parametrize("other", ["ab", 5, {"a": 1, "b": 2}, None, True, []])
def test_loops_over_what_is_no_list_are_empty(other: Any) -> None:
    found = [result({loop: [var("l"), True]}, {"l": other}) for loop in ("map", "filter", "all", "some", "none")]
    assert found == [[], [], False, False, True]
    assert result({"reduce": [var("l"), {"+": [var("accumulator"), var("current")]}, 5]}, {"l": other}) == 5


def test_a_reduce_without_a_start_begins_with_null() -> None:
    assert (
        result({"reduce": [var("l"), {"cat": [var("accumulator"), var("current")]}]}, {"l": ["a", None, "b"]}) == "ab"
    )
    assert result({"reduce": [var("gone"), {"cat": [var("accumulator"), var("current")]}]}) is None


def test_orderings_of_three_are_between() -> None:
    assert result({">": [5, 3, var("x")]}, {"x": 4}) is False
    assert result({">=": [5, 3, 3]}) is True
    assert result({"<": [1, var("x"), 3]}, {"x": "2"}) is True
    assert result({"<": [-1, var("x"), None]}, {"x": 0}) is False


def test_substr_of_null_is_empty() -> None:
    assert result({"substr": [var("gone"), 0, 1]}) == ""
    assert result({"substr": [True, 0, 2]}) == "tr"
    cuts: list[Any] = [[-3, 2], [1, -2], [1, -9], [-9, 2], ["1", "2"], [1, None], [1, "-2"]]
    assert [result({"substr": ["abcdef", *cut]}) for cut in cuts] == ["de", "bcd", "", "ab", "bc", "", "bcd"]


def test_one_factor_is_a_number() -> None:
    assert result({"*": [var("t")]}, {"t": "3"}) == 3
    assert result({"in": [{"*": ["3"]}, [3]]}) is True


def test_texts_have_characters() -> None:
    context = {"t": "a\U0001f600b"}
    assert result({"substr": [var("t"), 1, 1]}, context) == "\U0001f600"
    assert result(var("t.length"), context) == 3
    assert result(var("t.2"), context) == "b"
