"""Limits of values, metadata and whole flags on writes, of set quotas, and of what an error's trailers may take."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from flagsvc.api.common.answers import MAX_ANSWER_BYTES, AnswerSize
from flagsvc.api.common.failures import failure_for
from flagsvc.core import changes
from flagsvc.core.changes import Author
from flagsvc.core.errors import (
    AnswerTooLarge,
    FlagNotFound,
    InvalidRequest,
    QuotaExceeded,
    RevisionConflict,
    Violation,
    invalid,
)
from flagsvc.core.evaluation import ErrorCode, prepare
from flagsvc.core.flagd import reading
from flagsvc.core.model import Flag, Status
from flagsvc.core.sizes import MAX_SERVED_BYTES, estimated_memory, flag_bytes
from flagsvc.core.validation import MAX_FLAG_BYTES, MAX_METADATA_BYTES, MAX_VALUE_BYTES, validated
from flagsvc.ports import Entry, StoreContents
from flagsvc.serving.quotas import Quotas
from flagsvc.view.changelog import LOG_BYTES
from flagsvc.view.near_cache import NearCache
from tests.near_caches import merge

AUTHOR = Author(datetime(2026, 11, 1, tzinfo=UTC))
FLAG = Flag(key="a", status=Status.ENABLED)
QUOTES = 2
"""Characters that JSON adds to a text."""


def refused(flag: Flag) -> list[str]:
    with pytest.raises(InvalidRequest) as caught:
        validated(flag)
    return [str(violation) for violation in caught.value.violations]


def text(size: int) -> str:
    return "é" * ((size - QUOTES) // 2) + "x" * ((size - QUOTES) % 2)


def test_a_value_of_64_kb_is_accepted_and_one_byte_more_is_refused_with_its_place_size_and_limit() -> None:
    fits = replace(FLAG, variants={"on": text(MAX_VALUE_BYTES), "off": ""}, config={"x": text(MAX_VALUE_BYTES - 6)})
    assert validated(fits).variants == fits.variants
    over = replace(FLAG, variants={"on": text(MAX_VALUE_BYTES + 1), "off": ""}, config={"x": text(MAX_VALUE_BYTES)})
    assert refused(over) == [
        "flag.config is 65542 bytes of JSON; it must be at most 65536 bytes",
        "flag.variants[on] is 65537 bytes of JSON; it must be at most 65536 bytes",
    ]


def test_metadata_of_16_kb_is_accepted_and_one_byte_more_is_refused() -> None:
    rest = MAX_METADATA_BYTES - len('{"x":}')
    assert validated(replace(FLAG, metadata={"x": text(rest)}))
    assert refused(replace(FLAG, metadata={"x": text(rest + 1)})) == [
        "flag.metadata is 16385 bytes of JSON; it must be at most 16384 bytes"
    ]


def test_a_flag_of_512_kb_in_all_is_accepted_and_one_byte_more_is_refused() -> None:
    variants = {f"v{number}": "x" * 60_000 for number in range(8)}
    rest = MAX_FLAG_BYTES - flag_bytes(replace(FLAG, variants={**variants, "last": ""}))
    assert validated(replace(FLAG, variants={**variants, "last": "x" * rest}))
    assert refused(replace(FLAG, variants={**variants, "last": "x" * (rest + 1)})) == [
        "flag is 524289 bytes of JSON with all values and rules; it must be at most 524288 bytes"
    ]


def test_an_import_has_the_same_limits_and_a_served_file_has_not() -> None:
    definition = {"state": "ENABLED", "variants": {"on": "x" * 100_000}, "defaultVariant": "on"}
    [found] = reading.read({"flags": {"fat": definition}}).violations
    assert found.path == ("flags", "fat", "variants", "on")
    assert found.text == "100002 bytes of JSON; it must be at most 65536 bytes"
    many = {**definition, "variants": {f"v{number}": "x" * 60_000 for number in range(9)}, "defaultVariant": "v1"}
    [found] = reading.read({"flags": {"fat": many}}).violations
    assert found.path == ("flags", "fat")
    served = reading.read({"flags": {"fat": definition}}, is_write=False)
    assert (len(served.flags), served.violations) == (1, [])


def test_a_flag_is_served_up_to_4_mb_and_answers_general_beyond() -> None:
    rest = MAX_SERVED_BYTES - flag_bytes(replace(FLAG, variants={"on": ""}))
    fits = replace(FLAG, variants={"on": "x" * rest}, default_variant="on")
    over = replace(FLAG, variants={"on": "x" * (rest + 1)}, default_variant="on")
    assert prepare(fits).evaluate({}, 0.0).variant == "on"
    outcome = prepare(over).evaluate({}, 0.0)
    assert (outcome.error_code, outcome.message) == (ErrorCode.GENERAL, "The stored flag is over 4194304 bytes")


@pytest.mark.parametrize("action", ["toggle", "delete"])
def test_a_flag_of_any_size_can_be_toggled_and_deleted_and_its_history_stays_small(action: str) -> None:
    huge = replace(FLAG, variants={"on": "x" * 12_000_000}, default_variant="on", revision=7)
    decide = changes.toggle("a", False, None, AUTHOR) if action == "toggle" else changes.delete("a", None, AUTHOR)
    change = decide(huge)
    assert change is not None
    assert change.previous is not None
    assert len(str(change.previous)) + len(str(change.new)) < 1_000
    if action == "delete":
        assert change.previous["variants"] == "left out: 12000009 bytes"


def test_a_near_cache_holds_no_more_bytes_than_it_may() -> None:
    fat = [replace(FLAG, key=f"k{number}", variants={"on": "x" * 50_000}, revision=number + 1) for number in range(100)]
    near = NearCache(1_000, 5.0, max_bytes=1_000_000)
    merge(near, StoreContents(fat, {"default": 100}), 1.0, 1.0)
    assert (near.complete, len(near), near.bytes) == (False, 0, 0)
    for flag in fat:
        near.apply_read(Entry.of(flag), 1.0, 1.0)
    assert near.bytes <= 1_000_000
    assert len(near) == 1_000_000 // estimated_memory(fat[0])
    assert near.get(fat[-1].id) is not None
    assert near.get(fat[0].id) is None


def test_bytes_are_counted_right_through_changes_deletions_and_loads() -> None:
    near = NearCache(1_000, 5.0)
    flags = [replace(FLAG, key=f"k{number}", flag_set=f"s{number % 2}", revision=number + 1) for number in range(10)]
    merge(near, StoreContents(flags, {"s0": 9, "s1": 10}), 1.0, 1.0)
    bigger = replace(flags[0], variants={"on": "x" * 5_000}, revision=11)
    near.apply_change(Entry.of(bigger), 2.0)
    near.apply_change(Entry.absent(flags[1].id, 12), 2.0)
    now = [bigger, *flags[2:]]
    assert [near.totals_of(name).flags for name in ("s0", "s1")] == [5, 4]
    assert near.totals_of("s0").bytes == sum(estimated_memory(flag) for flag in now if flag.flag_set == "s0")
    merge(near, StoreContents(now[:3], {"s0": 13, "s1": 14}), 200.0, 200.0)
    merge(near, StoreContents(now[:3], {"s0": 13, "s1": 14}), 300.0, 300.0)
    assert near.bytes == sum(map(estimated_memory, now[:3]))


def test_a_set_over_its_quota_takes_no_more_and_can_still_be_toggled_shortened_and_emptied() -> None:
    near = NearCache(1_000, 5.0)
    fat = replace(FLAG, variants={"on": "x" * 5_000}, default_variant="on", revision=1)
    merge(near, StoreContents([fat, replace(FLAG, key="b", revision=2)], {"default": 2}), 1.0, 1.0)
    few = Quotas(flags=2, bytes=10**9)
    with pytest.raises(QuotaExceeded, match='"default" has 2 flags, and FLAGSVC_MAX_FLAGS_PER_SET is 2'):
        few.checked("default", changes.create(replace(FLAG, key="c"), AUTHOR), near)(None)
    assert few.checked("other", changes.create(replace(FLAG, flag_set="other"), AUTHOR), near)(None)
    small = Quotas(flags=100, bytes=near.bytes - 1_000)
    longer = changes.update(replace(fat, description="x" * 99), ["description"], None, AUTHOR)
    with pytest.raises(QuotaExceeded, match="FLAGSVC_MAX_BYTES_PER_SET is"):
        small.checked("default", longer, near)(fat)
    shorter = changes.update(replace(fat, variants={"on": "x"}), ["variants"], None, AUTHOR)
    for decide in (shorter, changes.toggle("a", False, None, AUTHOR), changes.delete("a", None, AUTHOR)):
        assert small.checked("default", decide, near)(fat)


def test_an_answer_is_refused_as_soon_as_it_is_too_large() -> None:
    size = AnswerSize("send fewer flag_keys in one call")
    size.add(MAX_ANSWER_BYTES)
    with pytest.raises(AnswerTooLarge) as caught:
        size.add(1)
    failure = failure_for("m", caught.value)
    assert (failure.code.name, failure.reason) == ("RESOURCE_EXHAUSTED", "ANSWER_TOO_LARGE")
    assert failure.message == "the answer would be over 4194304 bytes: send fewer flag_keys in one call"


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest(
            [Violation(f"flag.variants[{'n' * 200}{i}]", "'\\x00'" * 40, "named otherwise") for i in range(100)]
        ),
        InvalidRequest([Violation("f" * 100_000, "g" * 100_000, "h" * 100_000)]),
        InvalidRequest([Violation(f"flag.metadata[{'語' * 255}]", "語" * 80, "語" * 500) for _ in range(3)]),
        invalid("flag_key", "k" * 100_000, "short"),
        QuotaExceeded("語" * 10_000),
        FlagNotFound("😀" * 255),
        RevisionConflict("😀" * 255, 1, 2),
        InvalidRequest([]),
    ],
)
def test_trailers_take_at_most_6_kb_and_say_how_many_violations_are_not_listed(error: Exception) -> None:
    failure = failure_for("m", error)
    [(_, details)] = failure.trailers()
    encoded = len(details) * 4 / 3 + 3 * len(failure.message.encode())  # base64, and percent-encoding at its worst
    assert encoded <= 6_144
    if isinstance(error, InvalidRequest) and len(error.violations) > 1:
        status = status_pb2.Status.FromString(details)
        listed = error_details_pb2.BadRequest()
        packed: any_pb2.Any = status.details[1]
        assert packed.Unpack(listed)
        assert 1 <= len(listed.field_violations) < len(error.violations)
        assert failure.message.endswith(f"; and {len(error.violations) - 1} more violations")
        assert failure.metadata["violations"] == str(len(error.violations))


def test_a_large_flag_that_changes_often_is_not_kept_a_thousand_times() -> None:
    near = NearCache(1_000, 5.0)
    merge(near, StoreContents([], {}), 1.0, 1.0)
    large = replace(FLAG, variants={"on": "x" * 500_000})
    for revision in range(1, 101):
        near.apply_change(Entry.of(replace(large, revision=revision)), 2.0)
    changelog = near.changelogs.of("default")
    assert changelog.log_bytes == sum(estimated_memory(entry.flag) for entry, _ in changelog.log) <= LOG_BYTES
    missed = near.changelogs.since("default", 90)
    assert missed is not None
    assert [entry.revision for entry in missed] == list(range(91, 101))
    assert near.changelogs.since("default", 50) is None, "who resumes from there gets a snapshot"
