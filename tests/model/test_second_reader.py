"""No interleaving lets a second thread answer what the loop would not have answered. Each protection is needed."""

from __future__ import annotations

import pytest

from tests.model.second_reader import PROTECTIONS, STEPS, misread


@pytest.mark.parametrize("name", STEPS)
def test_the_second_thread_answers_as_the_loop_would(name: str) -> None:
    assert next(misread(STEPS[name]), None) is None


@pytest.mark.parametrize("protection", PROTECTIONS)
def test_each_protection_is_needed(protection: str) -> None:
    assert any(next(misread(steps, protection), None) is not None for steps in STEPS.values())
