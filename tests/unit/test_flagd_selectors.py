"""flagd's selectors: the flag set that each selects, and those that are refused."""

from __future__ import annotations

import pytest

from flagsvc.api.common.selectors import InvalidSelector, Selectors


@pytest.mark.parametrize(
    ("text", "flag_set", "metadata"),
    [
        ("", "default", {}),
        ("flagSetId=", "default", {}),
        ("flagSetId=mobile", "mobile", {"flagSetId": "mobile"}),
        ("source=a/b.json", "a/b.json", {"source": "a/b.json"}),
        ("a/b.json", "a/b.json", {"source": "a/b.json"}),
        ("flagSetId=a=b,source=c", "a=b,source=c", {"flagSetId": "a=b,source=c"}),
        ("flagSetId=default", "default", {"flagSetId": "default"}),
    ],
)
def test_a_selector_names_a_set(text: str, flag_set: str, metadata: dict[str, str]) -> None:
    found = Selectors().of((("flagd-selector", text),))
    assert (found.flag_set, found.metadata) == (flag_set, metadata)
    assert found == Selectors().of((), text), "the same in a request's field"


def test_the_header_comes_before_the_field_unless_it_is_empty() -> None:
    header = ("flagd-selector", "flagSetId=header")
    assert Selectors().of((("other", "x"), header), "flagSetId=body").flag_set == "header"
    assert Selectors().of((("flagd-selector", ""),), "flagSetId=body").flag_set == "body"
    assert Selectors().of(None).flag_set == "default"


def test_a_selector_that_names_no_set_that_can_exist_is_not_kept() -> None:
    selectors = Selectors()
    for number in range(100):
        assert selectors.of((), f"{number}{'x' * 100_000}").flag_set.endswith("x")
        assert selectors.of((), f"flagSetId={number}").flag_set == str(number)
    assert selectors._parsed.cache_info().currsize == 100


@pytest.mark.parametrize("text", ["=x", "flagsetid=x", "key=flagSetId=x", " flagSetId=x", "x" * 1_000 + "=y"])
def test_another_key_is_refused_in_flagds_words(text: str) -> None:
    with pytest.raises(InvalidSelector) as caught:
        Selectors().of((("flagd-selector", text),))
    key = text.partition("=")[0][:80]
    assert str(caught.value) == f'invalid selector key "{key}", valid keys: "flagSetId", "source"'
