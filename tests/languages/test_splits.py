"""The engine splits people as flagd's daemon does."""

from __future__ import annotations

import pytest

from flagsvc.core.targeting.rule import compile_rule
from tests.languages import splits
from tests.languages.asked import FLAGS


@pytest.mark.parametrize("key", splits.VARIANTS)
def test_the_variants_are_those_of_flagd(key: str) -> None:
    rule = compile_rule(FLAGS["flags"][key]["targeting"], key, fractional_version=2)
    found = [rule.evaluate(splits.context(number), 0) for number in range(splits.PEOPLE)]
    assert found == list(splits.VARIANTS[key])
