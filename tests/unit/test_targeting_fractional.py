"""Fractional splits: hashes and buckets are those of flagd in both versions, and never change."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cbor2
import mmh3
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openfeature.contrib.tools.flagd.core.targeting import targeting
from openfeature.evaluation_context import EvaluationContext

from flagsvc.core.evaluation import ErrorCode, Reason, prepare
from flagsvc.core.model import Flag, Status
from flagsvc.core.targeting import compile_rule
from flagsvc.core.targeting.fractional import encoded, hashing, split_of

DATA = Path(__file__).parents[1] / "data"
VERSIONS = {version: json.loads((DATA / f"fractional_v{version}.json").read_text()) for version in (2, 3)}


def case_of(vector: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the rule and the context of a vector. One without a seed is the shorthand form."""
    context = {} if vector["targetingKey"] is None else {"targetingKey": vector["targetingKey"]}
    if "seed" not in vector:
        return {"fractional": vector["shares"]}, context
    seed = vector["seed"] * vector["times"] if "times" in vector else vector["seed"]
    return {"fractional": [{"var": "seed"}, *vector["shares"]]}, {**context, "seed": seed}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_golden_vector_falls_where_it_always_fell(version: int) -> None:
    vectors = VERSIONS[version]
    assert len(vectors) >= 199
    assert [place for place, vector in enumerate(vectors) if placed(vector, version) != recorded(vector)] == []


def placed(vector: dict[str, Any], version: int) -> list[Any]:
    """Return the variant with and without a trace, and what the trace says of the split."""
    rule, context = case_of(vector)
    found: list[Any] = []
    for traced in (False, True):
        compiled = compile_rule(rule, vector["flagKey"], fractional_version=version, traced=traced)
        result, steps = compiled.explain(context, 1.0)
        found.append(result)
    return found + [step.note for step in steps if step.operator == "fractional"]


def recorded(vector: dict[str, Any]) -> list[Any]:
    """Return the same as recorded."""
    if vector["hash"] is None:
        return [vector["variant"], vector["variant"], "no split: nothing to hash"]
    total = sum(share[1] if len(share) > 1 else 1 for share in vector["shares"])
    return [vector["variant"], vector["variant"], f"bucket {vector['bucket']} of {total}, hash {vector['hash']:#010x}"]


@pytest.fixture
def _quiet_oracle() -> Iterator[None]:
    logger = logging.getLogger("openfeature.contrib")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(level)


@pytest.mark.usefixtures("_quiet_oracle")
def test_the_vectors_of_version_3_are_the_oracles() -> None:
    for vector in VERSIONS[3]:
        rule, context = case_of(vector)
        key = context.pop("targetingKey", None)
        found = targeting(vector["flagKey"], rule, EvaluationContext(key, context))
        assert found == vector["variant"], vector["name"]


def test_the_vectors_of_version_2_hash_texts_as_they_are() -> None:
    for vector in VERSIONS[2]:
        _, context = case_of(vector)
        seed = context.get("seed")
        if seed is None:
            key = context.get("targetingKey")
            seed = vector["flagKey"] + key if key else None
        encodable = isinstance(seed, str) and seed == seed.encode(errors="replace").decode()
        assert vector["hash"] == (mmh3.hash(seed.encode(), signed=False) if encodable else None), vector["name"]
        if vector["hash"] is not None:
            total = sum(share[1] if len(share) > 1 else 1 for share in vector["shares"])
            assert vector["bucket"] == math.floor(vector["hash"] * total / 2**32), vector["name"]


@pytest.mark.parametrize(
    ("text", "hashed"),
    [
        ("", 0x00000000),
        ("test", 0xBA6BD213),
        ("Hello, world!", 0xC0363E43),
        ("The quick brown fox jumps over the lazy dog", 0x2E4FF723),
    ],
)
def test_the_hash_is_murmur3_x86_32_with_seed_0(text: str, hashed: int) -> None:
    assert mmh3.hash(text.encode(), signed=False) == hashed
    assert hashing(2, "").of_text(text) == hashed


@pytest.mark.parametrize(
    ("value", "cbor"),
    [
        ("a", "6161"),
        ("a" * 23, "77" + "61" * 23),
        ("a" * 24, "7818" + "61" * 24),
        ("a" * 256, "790100" + "61" * 256),
        ("a" * 65_536, "7a00010000" + "61" * 65_536),
        ("é", "62c3a9"),
        (1, "01"),
        (1.0, "01"),
        (-0.0, "00"),
        (-1, "20"),
        (24, "1818"),
        (1.5, "f93e00"),
        (0.1, "fb3fb999999999999a"),
        (100_000.5, "fa47c35040"),
        (1e300, "fb7e37e43c8800759c"),
        (True, "f5"),
        (False, "f4"),
        ({"b": 1, "a": 2.0, "aa": 3}, "a36161026162016261610 3".replace(" ", "")),
        ({"x": [None, 1.0]}, "a1617882f601"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_version_3_hashes_canonical_cbor(value: Any, cbor: str) -> None:
    """The bytes are written out by hand from RFC 8949."""
    assert encoded(value).hex() == cbor
    assert hashing(3, "flag").of_seed(value, {}) == mmh3.hash(bytes.fromhex(cbor), signed=False)


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=300))
def test_texts_are_encoded_as_the_library_does(text: str) -> None:
    assert encoded(text) == cbor2.dumps(text, canonical=True)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(("first", "second"), [(50, 50), (1, 99), (99, 1)])
def test_shares_are_what_the_weights_say(version: int, first: int, second: int) -> None:
    keys = 20_000
    rule = compile_rule({"fractional": [["a", first], ["b", second]]}, "flag", fractional_version=version)
    chosen = sum(rule.evaluate({"targetingKey": f"user-{number}"}, 1.0) == "a" for number in range(keys))
    share = first / (first + second)
    sigma = math.sqrt(keys * share * (1 - share))
    assert abs(chosen - keys * share) < 4 * sigma


@pytest.mark.parametrize("version", [2, 3])
def test_two_flags_split_the_same_people_independently(version: int) -> None:
    keys = 20_000
    flags = [
        compile_rule({"fractional": [["a", 1], ["b", 1]]}, key, fractional_version=version) for key in ("one", "two")
    ]
    contexts = [{"targetingKey": f"user-{number}"} for number in range(keys)]
    both = sum(all(flag.evaluate(context, 1.0) == "a" for flag in flags) for context in contexts)
    assert abs(both - keys / 4) < 4 * math.sqrt(keys * 0.25 * 0.75)


@pytest.mark.parametrize("version", [2, 3])
def test_who_has_a_growing_share_keeps_it(version: int) -> None:
    contexts = [{"targetingKey": f"user-{number}"} for number in range(2_000)]
    had: set[int] = set()
    for weight in (0, 1, 5, 20, 50, 99, 100):
        rule = compile_rule({"fractional": [["on", weight], ["off", 100 - weight]]}, "f", fractional_version=version)
        has = {number for number, context in enumerate(contexts) if rule.evaluate(context, 1.0) == "on"}
        assert had <= has
        had = has
    assert len(had) == len(contexts)


@pytest.mark.parametrize(
    ("shares", "variants"),
    [
        ([["a", 1], ["b"]], 2),
        ([["a", 1.0], ["b", 2.0]], 2),
        ([["a", -5], ["b", 1]], 2),
        ([["a", 2**31 - 1]], 1),
        ([["a", 2**31 - 1], ["b", 1]], None),
        ([["a", 0], ["b", -1]], None),
        ([["a", "1"]], None),
        ([["a", True]], None),
        ([["a", None], ["b", 1]], 2),
        ([["a", 1, 2], ["b", 1, "x"]], 2),
        ([[None, 1], [True, 1], [1.5, 1]], 3),
        ([[["a"], 1]], None),
        ([[{"a": 1}, 1]], None),
        ([["a", 0.5]], None),
        ([["a", math.inf]], None),
        ([[]], None),
        (["a"], None),
        ([], None),
    ],
)
def test_shares_that_a_rule_computed_make_a_split_or_none(shares: list[Any], variants: int | None) -> None:
    """As in flagd 0.16.1, core/pkg/evaluator/fractional.go."""
    split = split_of(shares, 2)
    assert (split and len(split.variants)) == variants


@pytest.mark.parametrize("shares", [[["a", None], ["b", 1]], [["a", 1, 2]], [["a", 0.5]], [[]], []])
def test_version_3_takes_other_shares_than_flagds_daemon(shares: list[Any]) -> None:
    assert split_of(shares, 3) is None


def test_nobody_falls_to_a_weight_of_nothing() -> None:
    rule = compile_rule({"fractional": [["a", 0], ["b", 1], ["c", 0]]}, "flag")
    assert {rule.evaluate({"targetingKey": str(number)}, 1.0) for number in range(1_000)} == {"b"}


@pytest.mark.parametrize("key", [None, "", 5, True, ["a"], {}, "\ud800"])
def test_without_a_targeting_key_that_is_a_text_nobody_is_chosen(key: Any) -> None:
    for version in (2, 3):
        rule = compile_rule({"fractional": [["a", 1]]}, "flag", fractional_version=version)
        assert rule.evaluate({"targetingKey": key}, 1.0) is None
        assert rule.evaluate({}, 1.0) is None


RECORDED = json.loads((DATA / "fractional_flagd.json").read_text())


@pytest.mark.parametrize("key", RECORDED["flags"])
def test_400_contexts_get_the_variants_that_flagd_gave_them(key: str) -> None:
    """Recorded from flagd 0.16.1: texts of all scripts, seeds that are no text, computed and nested shares."""
    variants = {"red": "r", "blue": "b", "green": "g"}
    rule = json.dumps(RECORDED["flags"][key])
    flag = Flag(key=key, status=Status.ENABLED, variants=variants, default_variant="green", targeting=rule)
    prepared = prepare(flag)
    found = ""
    for context in RECORDED["contexts"]:
        outcome = prepared.evaluate(context, 1.0)
        chosen = outcome.value if outcome.reason is Reason.TARGETING_MATCH else "-"
        found += "!" if outcome.error_code is ErrorCode.GENERAL else chosen
    assert found == RECORDED["answers"][key]
    assert len(found) == 400
