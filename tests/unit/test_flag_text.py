"""Flag files as texts: what is reported of them together, and what YAML means."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from flagsvc.adapters.files.checked import Located, checked
from flagsvc.adapters.files.parse import parse
from flagsvc.adapters.files.yaml_text import parse_yaml, write_yaml
from flagsvc.core.json_values import same
from tests.sizes import examples


def places(found: list[Located]) -> list[tuple[int, str]]:
    return [(each.line, each.path) for each in found]


def test_everything_is_reported_at_once_in_the_order_of_lines() -> None:
    raw = b"""{"metadata": {"m": []},
"flags": {
"a": {"state": "ON", "variants": {}},
"b": {"state": "ENABLED", "variants": {"x": 1, "x": 2, "y": NaN},
      "defaultVariant": "z",
      "targeting": {"if": [{"foo": 1},
                           {"$ref": "no"}]}},
"c": 7}}"""
    found = checked("x.json", raw)
    assert places(found.warnings) == [
        (1, "$.metadata.m"),
        (3, "$.flags.a.state"),
        (3, "$.flags.a.variants"),
        (4, "$.flags.b.variants.x"),
        (6, "$.flags.b.targeting.if[0].foo"),
        (7, '$.flags.b.targeting.if[1]["$ref"]'),
    ]
    assert places(found.violations) == [(4, "$.flags.b.variants.y"), (5, "$.flags.b.defaultVariant"), (8, "$.flags.c")]


def test_what_is_ignored_is_a_note() -> None:
    raw = b"""flags:
  f:
    state: ENABLED
    colour: red
    variants: {on: true, off: false}
    defaultVariant: on
    metadata: {beta: yes}
extra: 1
$evaluators:
  unused: {"!": 1}
"""
    found = checked("x.yml", raw)
    assert found.violations == []
    assert [(note.line, note.path) for note in found.notes] == [
        (4, "$.flags.f.colour"),
        (7, "$.flags.f.metadata.beta"),
        (8, "$.extra"),
        (10, '$["$evaluators"].unused'),
    ]
    assert (found.flags[0].default_variant, found.flags[0].metadata) == ("on", {"beta": "yes"})


@pytest.mark.parametrize(("name", "text"), [("x.json", '{"a":\n\n[1,\n2]}'), ("x.yaml", "a:\n\n  - 1\n  - 2")])
def test_a_fields_line_is_that_of_its_name_and_an_elements_its_own(name: str, text: str) -> None:
    found = parse(name, text.encode())
    assert [found.lines(path) for path in ((), ("a",), ("a", 0), ("a", 1), ("a", 2), ("b",))] == [1, 1, 3, 4, 1, 1]


def test_names_in_paths_cannot_break_the_output() -> None:
    [found] = checked("x.json", b'{"flags":{"a\\n\\ud800":1}}').violations[:1]
    found.path.encode()
    assert "\n" not in str(found)


def test_yaml_means_what_json_means() -> None:
    text = "a: &x {n: 1, f: 1.5, e: 1e3, t: true, z: null, s: 'on', o: on, k: {5: x, true: y}}\nb: *x\nc: !!str 5\n"
    value = {"n": 1, "f": 1.5, "e": 1000.0, "t": True, "z": None, "s": "on", "o": "on", "k": {"5": "x", "true": "y"}}
    found = parse("x.yaml", text.encode())
    assert (found.problems, found.document) == ([], {"a": value, "b": value, "c": "5"})
    assert found.lines(("b", "k", "5")) == 1
    assert found.lines(("c",)) == 3


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",)))
    | st.sampled_from(
        ["1e3", "1.0", "0x1F", "1_000", "2026-01-01", "10:20", "yes", "~", "null", "<<", "=", "- a", "#x"]
    ),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(exclude_categories=("Cs",))), inner)
    ),
    max_leaves=20,
)


@given(JSON)
@settings(max_examples=examples(300), deadline=None)
def test_written_yaml_is_read_back_as_it_was(value: Any) -> None:
    written = write_yaml({"value": value})
    found = parse_yaml(written)
    assert found.problems == []
    assert same(found.document, {"value": value})
    assert same(yaml.safe_load(written), {"value": value})


@pytest.mark.parametrize("char", ["\u202e", "\u200b", "\u2028", "\x85", "\x1b", "\ufeff", "\U000e0041", "\x7f"])
def test_written_yaml_shows_every_character(char: str) -> None:
    value = {f"a{char}": f"ü{char}x", "list": [char, f"{char}\n{char}"], "plain": "ü"}
    written = write_yaml(value)
    assert char not in written
    assert parse_yaml(written).document == yaml.safe_load(written) == value
    assert "ü" in write_yaml({"plain": "ü"})


@given(JSON, st.sampled_from([None, 1, "\t"]))
@settings(max_examples=examples(300), deadline=None)
def test_lines_are_those_of_the_text(value: Any, indent: Any) -> None:
    text = json.dumps({"before": [1, {"x": "\n"}], "value": value, "needle": 1, "after": value}, indent=indent)
    found = parse("x.json", text.encode())
    assert same(found.document["value"], value)
    assert found.lines(("needle",)) == text[: text.index('"needle": 1')].count("\n") + 1


@given(st.binary(max_size=200) | st.text().map(str.encode), st.sampled_from(["x.json", "x.yaml"]))
@settings(max_examples=examples(500), deadline=None)
def test_no_bytes_can_crash_the_reading(raw: bytes, name: str) -> None:
    found = checked(name, raw)
    assert all(each.line >= 1 for each in found.violations)
    assert found.violations or found.flags == []


FRAGMENTS = st.lists(
    st.sampled_from(
        ["{", "}", "[", "]", ":", ",", '"a"', '"flags"', "1", "NaN", "\n", " ", "&a ", "*a", "- ", "? ", "!t "]
    ),
    max_size=40,
).map("".join)


@given(FRAGMENTS, st.sampled_from(["x.json", "x.yaml"]))
@settings(max_examples=examples(500), deadline=None)
def test_no_mixture_of_signs_can_crash_the_reading(text: str, name: str) -> None:
    for each in checked(name, text.encode()).violations:
        assert re.fullmatch(r"\d+: \$.*: .+", str(each), re.DOTALL)
