"""flagd's configuration read into flags and written again: nothing is lost, and nothing else is changed."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openfeature.contrib.tools.flagd.core import FlagdCore

from flagsvc.core import json_values
from flagsvc.core.changes import Author
from flagsvc.core.errors import InvalidRequest
from flagsvc.core.flagd.merging import merged, put_definition
from flagsvc.core.flagd.reading import read
from flagsvc.core.flagd.writing import write
from flagsvc.core.model import Flag, Status
from tests.sizes import examples

DATA = Path(__file__).parents[1] / "data" / "flagd"
FILES = sorted(DATA.glob("*.json"))
NOON = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
LATER = Author(NOON, "ann")


def good(document: Any, flag_set: str | None = None) -> list[Flag]:
    found = read(document, flag_set)
    assert found.violations == []
    return found.flags


def by_key(flags: list[Flag]) -> dict[str, Flag]:
    return {flag.key: flag for flag in flags}


def definition(**fields: Any) -> dict[str, Any]:
    return {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "on", **fields}


def one(**fields: Any) -> Flag:
    return good({"flags": {"f": definition(**fields)}})[0]


def written(*flags: Flag) -> dict[str, Any]:
    return write(flags, flags[0].flag_set)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_real_file_is_written_as_it_was_read(path: Path) -> None:
    document = json.loads(path.read_text())
    flags = good(document)
    assert json_values.same(write(flags, flags[0].flag_set), document)
    assert good(write(flags, flags[0].flag_set)) == flags


def test_what_a_file_says_is_what_the_flag_is() -> None:
    flag = one(description="d", metadata={"m": 1}, targeting={"if": [{"var": "x"}, "on", None]})
    assert flag == Flag(
        key="f",
        name="f",
        description="d",
        status=Status.ENABLED,
        variants={"on": True, "off": False},
        default_variant="on",
        targeting='{"if":[{"var":"x"},"on",null]}',
        metadata={"m": 1},
    )
    assert one(state="DISABLED").status is Status.DISABLED


def test_an_empty_rule_is_none_and_null_a_rule_that_never_matches() -> None:
    assert one(targeting={}).targeting is None
    assert one(targeting=None).targeting == "null"


@pytest.mark.parametrize(
    ("default", "variant"), [("on", "on"), (None, None), ("", None), (True, "true"), (False, "false")]
)
def test_default_variants(default: Any, variant: str | None) -> None:
    variants = {"on": 1, "true": 2, "false": 3}
    assert one(variants=variants, defaultVariant=default).default_variant == variant


def test_flags_may_stand_in_an_array() -> None:
    flags = good({"flags": [{"key": "a", **definition()}, {"key": "b", **definition(state="DISABLED")}]})
    assert [(flag.key, flag.status) for flag in flags] == [("a", Status.ENABLED), ("b", Status.DISABLED)]


def test_a_flags_set_is_the_callers_choice_else_its_metadata_else_default() -> None:
    document = {
        "metadata": {"flagSetId": "file", "v": 1},
        "flags": {"a": definition(), "b": definition(metadata={"flagSetId": "own", "v": 2})},
    }
    assert [(f.flag_set, dict(f.metadata)) for f in good(document)] == [
        ("file", {"flagSetId": "file", "v": 1}),
        ("own", {"flagSetId": "own", "v": 2}),
    ]
    assert [(f.flag_set, f.metadata["flagSetId"]) for f in good(document, "mine")] == [("mine", "mine")] * 2
    assert [(f.flag_set, dict(f.metadata)) for f in good(document, "default")] == [
        ("default", {"v": 1}),
        ("default", {"v": 2}),
    ]
    assert [f.flag_set for f in good({"metadata": {"flagSetId": ""}, "flags": {"a": definition()}})] == ["default"]


def test_one_key_in_two_sets_of_an_array_is_two_flags() -> None:
    items = [{"key": "a", **definition(metadata={"flagSetId": name})} for name in ("x", "y")]
    assert [flag.flag_set for flag in good({"flags": items})] == ["x", "y"]
    assert read({"flags": items}, "one").warnings[0].path == ("flags", 1)


NESTED = {
    "inner": {"var": "x"},
    "middle": {"!": [{"$ref": "inner"}]},
    "outer": {"and": [{"$ref": "middle"}, {"$ref": "inner"}]},
    "other": {"var": "y"},
}


def ruled(name: str) -> dict[str, Any]:
    return definition(targeting={"if": [{"$ref": name}, "on", "off"]})


def test_each_flag_gets_the_evaluators_that_it_uses_directly_and_through_others() -> None:
    flags = by_key(good({"$evaluators": NESTED, "flags": {"a": ruled("outer"), "b": ruled("inner")}}))
    assert sorted(flags["a"].evaluators) == ["inner", "middle", "outer"]
    assert dict(flags["b"].evaluators) == {"inner": '{"var":"x"}'}
    assert json_values.same(
        write([*flags.values()]),
        {
            "$schema": "https://flagd.dev/schema/v0/flags.json",
            "flags": {"a": ruled("outer"), "b": ruled("inner")},
            "$evaluators": {name: NESTED[name] for name in ("outer", "middle", "inner")},
        },
    )


def test_where_flags_differ_in_a_rule_the_most_used_stays_and_the_others_are_inlined() -> None:
    many = good({"$evaluators": NESTED, "flags": {"a": ruled("outer"), "b": ruled("outer")}})
    [few] = good({"$evaluators": {**NESTED, "inner": {"var": "z"}}, "flags": {"c": ruled("outer")}})
    document = write([few, *many])
    assert document["$evaluators"] == {name: NESTED[name] for name in ("outer", "middle", "inner")}
    assert document["flags"]["a"] == ruled("outer")
    inlined = {"and": [{"!": [{"var": "z"}]}, {"var": "z"}]}
    assert document["flags"]["c"] == definition(targeting={"if": [inlined, "on", "off"]})
    assert not put_definition(good(document)[0], LATER)(few)


def test_metadata_that_all_flags_have_stands_once() -> None:
    flags = [
        one(metadata={"team": team, "tier": 1, **extra}) for team, extra in (("x", {}), ("y", {"k": 1}), ("y", {}))
    ]
    flags = [replace(flag, key=key) for flag, key in zip(flags, "abc", strict=True)]
    document = write(flags)
    assert document["metadata"] == {"team": "y", "tier": 1}
    assert [flag.get("metadata") for flag in document["flags"].values()] == [{"team": "x"}, {"k": 1}, None]
    assert [flag.metadata for flag in good(document)] == [flag.metadata for flag in flags]
    assert "metadata" not in write([flags[0], replace(flags[1], metadata={})])


def test_true_and_one_are_different_metadata() -> None:
    flags = [replace(one(metadata={"m": value}), key=key) for key, value in (("a", 1), ("b", True), ("c", 1.0))]
    again = good(write(flags))
    assert [repr(flag.metadata["m"]) for flag in again] == ["1", "True", "1.0"]


def test_a_set_other_than_default_carries_its_name() -> None:
    flag = Flag(key="a", flag_set="prod", variants={"v": 1}, metadata={"flagSetId": "stale"})
    assert write([flag], "prod")["metadata"] == {"flagSetId": "prod"}
    assert good(write([flag], "prod"))[0].flag_set == "prod"
    assert write([], "prod") == {"$schema": write([])["$schema"], "metadata": {"flagSetId": "prod"}, "flags": {}}
    assert "metadata" not in write([replace(flag, flag_set="default")])


RULE = '{"if":[{"var":"x"},"on"]}'


@pytest.mark.parametrize(
    ("flag", "state", "default"),
    [
        (Flag(key="f", status=Status.ENABLED), "ENABLED", "on"),
        (Flag(key="f", status=Status.DISABLED), "DISABLED", "on"),
        (Flag(key="f", status=Status.DEPRECATED), "DISABLED", "on"),
        (Flag(key="f", status=Status.BETA), "DISABLED", "on"),
        (Flag(key="f", status=Status.BETA, targeting=RULE), "ENABLED", None),
        (Flag(key="f", status=Status.BETA, targeting="{}"), "DISABLED", "on"),
        (Flag(key="f", status=Status.ENABLED, default_variant="off"), "ENABLED", "off"),
    ],
)
def test_switches_and_statuses_as_flagd_knows_them(flag: Flag, state: str, default: str | None) -> None:
    found = written(flag)["flags"]["f"]
    assert (found["state"], found.get("defaultVariant")) == (state, default)
    assert found["variants"] == {"on": True, "off": False}
    assert ("targeting" in found) is (flag.targeting == RULE)
    again = good(written(flag))[0]
    assert put_definition(again, LATER)(flag) is None, "an export must import without a change"


@pytest.mark.parametrize(
    "flag",
    [
        Flag(key="f", problem="The stored definition is malformed: status"),
        Flag(key="f", targeting="{"),
        Flag(key="f", targeting='{"$ref":"a"}', evaluators={"a": '{"$ref":"a"}'}),
        Flag(key="f", targeting='{"$ref":"a"}', evaluators={"a": '{"!":' * 900 + "1" + "}" * 900}),
    ],
)
def test_a_flag_that_flagd_could_not_read_is_named_and_nothing_written(flag: Flag) -> None:
    with pytest.raises(InvalidRequest, match="flag 'f'"):
        write([Flag(key="fine"), flag])


STORED = Flag(
    key="f",
    name="A name",
    description="words",
    category="core",
    status=Status.BETA,
    config={"n": 1},
    icon="Hash",
    badge="New",
    sort_order=7,
    created_at=NOON,
    targeting=RULE,
    default_variant="off",
    metadata={"m": 1},
    owner="team",
    expires_at=NOON,
    revision=9,
)


def imported(stored: Flag, change: Any) -> Flag:
    document = written(stored)
    change(document["flags"]["f"])
    return merged(stored, good(document)[0])


def test_what_a_file_does_not_know_stays() -> None:
    found = imported(STORED, lambda flag: flag["targeting"].update({"if": [{"var": "y"}, "on"]}))
    assert found == replace(STORED, targeting='{"if":[{"var":"y"},"on"]}')
    assert imported(STORED, lambda flag: flag.pop("description")) == STORED
    assert imported(STORED, lambda flag: flag.update(description="new")) == replace(STORED, description="new")


def test_a_status_is_lost_only_where_the_file_says_otherwise() -> None:
    assert imported(STORED, lambda flag: flag.update(state="DISABLED")).status is Status.DISABLED
    on = imported(STORED, lambda flag: flag.update(defaultVariant="on"))
    assert (on.status, on.default_variant) == (Status.ENABLED, "on"), "BETA has no default for everybody"
    gone = imported(STORED, lambda flag: flag.pop("targeting"))
    assert (gone.status, gone.default_variant) == (Status.ENABLED, None), "without a rule BETA would be disabled"
    old = replace(STORED, status=Status.DEPRECATED)
    assert imported(old, lambda flag: flag.update(variants={"on": True, "off": False, "x": True})).status is old.status
    assert imported(old, lambda flag: flag.update(state="ENABLED")).status is Status.ENABLED


def test_a_plain_switch_stays_one_until_its_variants_change() -> None:
    plain = Flag(key="f", status=Status.ENABLED)
    assert imported(plain, lambda flag: flag.update(state="DISABLED")) == replace(plain, status=Status.DISABLED)
    assert imported(plain, lambda flag: flag.update(defaultVariant="off")).default_variant == "off"
    assert imported(plain, lambda flag: flag.update(variants={"on": True})).variants == {"on": True}


def test_a_broken_stored_flag_is_put_right() -> None:
    flag = one(targeting=json.loads(RULE))
    broken = replace(STORED, problem="The stored definition is malformed: variants", variants={})
    change = put_definition(flag, LATER)(broken)
    assert change
    assert change.after
    assert (change.after.variants, change.after.problem) == (flag.variants, "")


def test_an_import_says_what_it_changed() -> None:
    change = put_definition(one(metadata={"m": 2}, variants={"on": True}), LATER)(
        replace(STORED, status=Status.ENABLED)
    )
    assert change
    assert change.new
    assert sorted(change.new) == ["defaultVariant", "metadata", "targeting", "variants"]
    created = put_definition(one(), LATER)(None)
    assert created
    assert created.after
    assert (created.action, created.after.created_at, created.after.name) == ("CREATED", NOON, "f")


names = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=8)
scalars = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | names
value_types = st.sampled_from(
    [
        st.booleans(),
        names,
        st.integers(-5, 5) | st.floats(-5, 5),
        st.dictionaries(names, scalars | st.lists(scalars, max_size=2), max_size=2),
    ]
)
EVALUATORS = ["e0", "e1", "e2", "e3"]


@st.composite
def conditions(draw: Any, below: int) -> Any:
    """A condition that refers only to evaluators before the given index, so that none refers to itself."""
    leaf = st.sampled_from([{"==": [{"var": "plan"}, "pro"]}, {"var": ["x", 1]}, {"in": ["a", ["a", "b"]]}])
    refs = [{"$ref": name} for name in EVALUATORS[:below]]
    part = leaf | st.sampled_from(refs) if refs else leaf
    return draw(part | st.builds(lambda a, b: {"and": [a, {"!": [b]}]}, part, part))


@st.composite
def files(draw: Any) -> dict[str, Any]:
    evaluators = {name: draw(conditions(index)) for index, name in enumerate(EVALUATORS)}
    document: dict[str, Any] = {"flags": {}, "$evaluators": evaluators}
    metadata = st.dictionaries(names.filter(lambda name: name != "flagSetId"), scalars, max_size=3)
    if draw(st.booleans()):
        document["metadata"] = {**draw(metadata), **draw(st.sampled_from([{}, {"flagSetId": "s"}]))}
    for key in draw(st.lists(names, unique=True, max_size=4)):
        variants = draw(st.dictionaries(names, draw(value_types), min_size=1, max_size=3))
        flag: dict[str, Any] = {"state": draw(st.sampled_from(["ENABLED", "DISABLED"])), "variants": variants}
        chosen = st.sampled_from([*variants, None])
        if draw(st.booleans()):
            flag["defaultVariant"] = draw(chosen)
        if draw(st.booleans()):
            flag["targeting"] = {"if": [draw(conditions(4)), draw(chosen), draw(chosen)]}
        if draw(st.booleans()):
            flag["metadata"] = draw(metadata)
        if draw(st.booleans()):
            flag["description"] = draw(names)
        document["flags"][key] = flag
    return document


@given(files())
@settings(max_examples=examples(300), deadline=None)
def test_import_export_import_loses_nothing(document: dict[str, Any]) -> None:
    flags = good(document)
    exported = write(flags, flags[0].flag_set if flags else "default")
    again = good(json.loads(json.dumps(exported)))
    assert [put_definition(new, LATER)(old) for new, old in zip(again, flags, strict=True)] == [None] * len(flags)
    assert [f.id for f in again] == [f.id for f in flags]
    assert [json_values.same(dict(a.metadata), dict(b.metadata)) for a, b in zip(again, flags, strict=True)] == [
        True
    ] * len(flags)
    assert json_values.same(write(again, flags[0].flag_set if flags else "default"), exported)


@given(st.lists(files(), min_size=2, max_size=3))
@settings(max_examples=examples(150), deadline=None)
def test_flags_of_several_files_in_one_set_are_written_without_loss(documents: list[dict[str, Any]]) -> None:
    flags = [
        replace(flag, key=f"{n}{flag.key}") for n, document in enumerate(documents) for flag in good(document, "one")
    ]
    again = good(write(flags, "one"))
    assert [put_definition(new, LATER)(old) for new, old in zip(again, flags, strict=True)] == [None] * len(flags)


@given(files())
@settings(max_examples=examples(100), deadline=None)
def test_flagds_own_core_accepts_what_is_written(document: dict[str, Any]) -> None:
    flags = [replace(flag, description=None) for flag in good(document)]
    core = FlagdCore()
    core.set_flags(json.dumps(write(flags, flags[0].flag_set if flags else "default")))
