"""A flag is never answered with a parent of another moment. Each protection is needed."""

from __future__ import annotations

import pytest

from tests.model.families import LARGE, PROTECTIONS, broken


def test_no_answer_mixes_two_moments_or_goes_back() -> None:
    states, story = broken()
    assert story == ""
    assert states > 1_000


@pytest.mark.long
def test_nor_do_three_changes() -> None:
    assert broken("", LARGE)[1] == ""


@pytest.mark.parametrize("protection", PROTECTIONS)
def test_each_protection_is_needed(protection: str) -> None:
    assert broken(protection)[1]
