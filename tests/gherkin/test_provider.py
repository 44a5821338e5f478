"""OpenFeature's own suite for providers (tests/data/openfeature), for FlagsvcProvider: in memory, local, by network.

Left out, for no provider of flagsvc is like that: reason CACHED (it caches no answers), and a provider in a fatal state
(whatever is wrong, it goes on connecting).
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from flagsvc_client.openfeature import FlagsvcProvider
from flagsvc_client.testing import InMemoryFlagClient
from openfeature import api

from tests.gherkin.scenarios import Scenario, read
from tests.gherkin.steps import World
from tests.replicas import replica

FOLDER = Path(__file__).parents[1] / "data" / "openfeature"
SCENARIOS = [each for name in ("evaluation_v2", "metadata", "hooks") for each in read(FOLDER / f"{name}.feature")]
_TAGS_LEFT_OUT = {"@reason-codes-cached", "@provider-status-fatal"}
PLAYED = [
    each
    for each in SCENARIOS
    if not each.tags & _TAGS_LEFT_OUT and not any(step.text == "a fatal provider" for step in each.steps)
]
OF_FLAGS = [each for each in PLAYED if "@provider-status" not in each.tags]
"""Those that are not about a provider without a server."""
_EMAIL = {"==": [{"var": "email"}, "ballmer@macrosoft.com"]}
RULES = {
    "email == 'ballmer@macrosoft.com' ? 'zero' : ''": {"if": [_EMAIL, "zero", None]},
    "!customer && email == 'ballmer@macrosoft.com' && age > 10 ? 'internal' : ''": {
        "if": [{"and": [{"!": [{"var": "customer"}]}, _EMAIL, {">": [{"var": "age"}, 10]}]}, "internal", None]
    },
}
"""The suite's rules, which are CEL, as JsonLogic."""


def flagd_flags() -> dict[str, Any]:
    """The suite's flags as in flagd's files."""
    given = json.loads((FOLDER / "test-flags.json").read_text())
    return {
        key: {
            "state": "DISABLED" if flag.get("disabled") else "ENABLED",
            "variants": flag["variants"],
            "defaultVariant": flag.get("defaultVariant"),
            **({"targeting": RULES[flag["contextEvaluator"]]} if flag.get("contextEvaluator") else {}),
            **({"metadata": flag["flagMetadata"]} if flag.get("flagMetadata") else {}),
        }
        for key, flag in given.items()
    }


@pytest.fixture(scope="module")
async def target(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    folder = tmp_path_factory.mktemp("gherkin")
    (folder / "flags.json").write_text(json.dumps({"flags": flagd_flags()}))
    async with replica(store_url=f"file:{folder}/flags.json") as (_, server):
        yield f"127.0.0.1:{server.port}"


@pytest.fixture(scope="module", autouse=True)
def _sdk_as_new() -> Iterator[None]:
    yield
    api.clear_providers()


def named(scenario: Scenario) -> str:
    return str(scenario)


@pytest.mark.parametrize("scenario", PLAYED, ids=named)
async def test_in_memory(scenario: Scenario) -> None:
    kept = InMemoryFlagClient({"flags": flagd_flags()})
    await World("memory", lambda: FlagsvcProvider(client=kept)).play(scenario)


@pytest.mark.parametrize("scenario", OF_FLAGS, ids=named)
@pytest.mark.parametrize("local", [False, True], ids=["network", "local"])
async def test_with_a_server(scenario: Scenario, target: str, local: bool) -> None:
    await World("server", lambda: FlagsvcProvider(target, timeout_s=5.0, local=local)).play(scenario)


def test_nothing_else_of_the_suite_is_left_out() -> None:
    assert (len(SCENARIOS), len(PLAYED), len(OF_FLAGS)) == (90, 82, 73)


def test_what_is_left_out_stands_in_the_documents_with_its_reason() -> None:
    page = (Path(__file__).parents[2] / "clients" / "python" / "README.md").read_text()
    table = page.partition("<!-- scenarios left out -->")[2].partition("<!-- /scenarios left out -->")[0]
    rows = re.findall(r"^\| ([^|]+) \| (\d+) \| (.+) \|$", table, re.MULTILINE)
    left_out = [each.name for each in SCENARIOS if each not in PLAYED]
    beginnings = {"CACHED reason": 2, "Provider in fatal state error": 5, "Provider status": 1}
    assert {name.partition(",")[0]: int(count) for name, count, _ in rows} == beginnings
    assert [sum(name.startswith(beginning) for name in left_out) for beginning in beginnings] == [2, 5, 1]
