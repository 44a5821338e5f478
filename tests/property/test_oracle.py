"""The engine against openfeature-flagd-core 2.0.0, the oracle: equal results, except for the choices named in `oracle`.

ORACLE_CASES is the number of cases compared, 200,000 in `make test-long`; ORACLE_SEED is the generator's seed.
"""

from __future__ import annotations

import os
import time
from collections import Counter

import pytest

from flagsvc.core.targeting.forms import FORMS
from tests.property.oracle import Pair, difference, shrunk, silence
from tests.property.rules import Maker, operators

CASES = int(os.environ.get("ORACLE_CASES", "20000"))
SEED = os.environ.get("ORACLE_SEED", "flagd-core 2.0.0")
CONTEXTS = 5


@pytest.mark.timeout(900)
def test_rules_give_what_the_oracle_gives(capsys: pytest.CaptureFixture[str]) -> None:
    seen: Counter[str] = Counter()
    met: Counter[str] = Counter()
    started = time.perf_counter()
    compared = flags = 0
    with silence():
        while compared < CASES:
            cases = Maker(f"{SEED}/{flags}").cases(CONTEXTS)
            pair = Pair(cases[0])
            for case in cases:
                if difference(case, pair, seen):
                    smallest = shrunk(case)
                    pytest.fail(f"seed {SEED}/{flags}: {difference(smallest)}\n{smallest}")
                compared += 1
            met.update(name for call in operators(cases[0].rule) for name in call)
            flags += 1
    with capsys.disabled():
        print(f"\n{compared} cases, {flags} rules, {time.perf_counter() - started:.0f} s: {dict(seen.most_common())}")  # noqa: T201
    assert all(met[name] > flags / 200 for name in FORMS), "every operator must occur often enough"
    assert seen["refused"] < compared * 0.1, "most rules must be valid"
    assert seen["TARGETING_MATCH"] > compared * 0.3, "rules must choose a variant often enough"
