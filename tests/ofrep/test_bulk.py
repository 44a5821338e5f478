"""All flags of a set over OFREP: the list, the ETag and 304, and the announced event stream."""

from __future__ import annotations

from typing import Any

import pytest

from tests.ofrep.asking import FLAGS_PATH, Asked
from tests.providers.cases import CASES

CH, FR = {"country": "CH"}, {"country": "FR"}


def listed(answer: Any) -> dict[str, dict[str, Any]]:
    return {each["key"]: each for each in answer.json()["flags"]}


async def test_all_flags_are_returned_each_as_in_a_single_evaluation(asked: Asked) -> None:
    for context in ({}, CH, {"choice": "green"}):
        flags = listed(await asked.all(context))
        keys = {case.key for case in CASES if case.error != "FLAG_NOT_FOUND"}
        assert keys <= flags.keys()
        assert "only-a" not in flags
        for key, found in flags.items():
            assert (await asked.one(key.replace("/", "%2F").replace("?", "%3F"), context)).json() == found
    assert flags["chosen"]["errorCode"] == "GENERAL", "an error stands in the list"
    assert flags["disabled"] == {"key": "disabled", "reason": "DISABLED", "variant": None, "metadata": {}}


async def test_a_trailing_slash_makes_no_difference(few: Asked) -> None:
    assert (await few.http.post(f"{FLAGS_PATH}/", json={})).json() == (await few.all()).json()


async def test_metadata_of_all_is_the_selector(asked: Asked) -> None:
    assert (await asked.all()).json()["metadata"] == {}
    found = (await asked.all(Flagd_Selector="flagSetId=tenant-a")).json()
    assert found["metadata"] == {"flagSetId": "tenant-a"}
    assert {each["key"]: each["metadata"] for each in found["flags"]} == {
        "boolean": {"flagSetId": "tenant-a"},
        "only-a": {"flagSetId": "tenant-a", "tier": "gold"},
    }
    assert (await asked.all(Flagd_Selector="flagSetId=nowhere")).json()["flags"] == []


@pytest.mark.parametrize(
    ("selector", "query"),
    [("", ""), ("flagSetId=tenant-a", "?selector=flagSetId%3Dtenant-a"), ("a b&c=d", "")],
)
async def test_the_answer_says_where_changes_are_announced(few: Asked, selector: str, query: str) -> None:
    answer = await few.all(Flagd_Selector=selector)
    if selector == "a b&c=d":
        assert answer.status_code == 400
        return
    [stream] = answer.json()["eventStreams"]
    assert stream == {
        "type": "sse",
        "endpoint": {"requestUri": f"/ofrep/v1/sse{query}"},
        "inactivityDelaySec": 120,
    }


async def test_a_bad_context_is_reported_without_key(few: Asked) -> None:
    found = await few.http.post(FLAGS_PATH, content=b"{")
    assert found.status_code == 400
    details = "Provider context is not valid: the body is not JSON: Expecting property name enclosed in double quotes"
    assert found.json() == {"errorCode": "INVALID_CONTEXT", "errorDetails": details, "metadata": {}}
    assert (await few.http.post(FLAGS_PATH, content=b" " * 1_000_001)).status_code == 413


async def test_an_unchanged_answer_is_304_without_body(few: Asked) -> None:
    etag = (await few.all(CH)).headers["etag"]
    for given in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        found = await few.all(CH, If_None_Match=given)
        assert (found.status_code, found.headers["etag"], found.content) == (304, etag, b"")
    assert (await few.all(CH, If_None_Match='"other"')).status_code == 200


async def test_another_context_is_never_304(few: Asked) -> None:
    etag = (await few.all(CH)).headers["etag"]
    other = await few.all(FR, If_None_Match=etag)
    assert other.status_code == 200
    assert listed(other)["by-country"]["variant"] == "red"
    selected = await few.all(CH, If_None_Match=etag, Flagd_Selector="flagSetId=tenant-a")
    assert selected.status_code == 200


async def test_a_change_ends_304_until_it_is_reverted(few: Asked) -> None:
    etag = (await few.all()).headers["etag"]
    await few.set_default("color", "red")
    changed = await few.all(If_None_Match=etag)
    assert (changed.status_code, listed(changed)["color"]["variant"]) == (200, "red")
    assert changed.headers["etag"] != etag
    await few.set_default("color", "blue", flag_set="tenant-a")
    assert (await few.all(If_None_Match=changed.headers["etag"])).status_code == 304
    await few.set_default("color", "blue")
    assert (await few.all(If_None_Match=etag)).status_code == 304


async def test_an_etag_from_an_event_is_304_only_for_the_configuration_that_it_named(few: Asked) -> None:
    revision = await few.set_default("color", "red")
    etag = (await few.all()).headers["etag"]
    same = await few.all(query={"flagConfigEtag": f'"{revision}"'}, If_None_Match=etag)
    assert same.status_code == 304
    for query in ({"flagConfigEtag": f'"{revision - 1}"'}, {"flagConfigEtag": "abc"}, {"flagConfigLastModified": "1"}):
        assert (await few.all(query=query, If_None_Match=etag)).status_code == 200


async def test_an_etag_from_an_event_is_answered_from_that_configuration_or_a_newer_one(few: Asked) -> None:
    revision = await few.set_default("color", "red")
    assert (await few.all(query={"flagConfigEtag": f'"{revision}"'})).status_code == 200
    behind = await few.all(query={"flagConfigEtag": f'"{revision + 1}"'})
    assert (behind.status_code, behind.headers["retry-after"]) == (503, "1")
