"""conformance.json, rules with contexts and answers: every way to evaluate gives the same, in Python and TypeScript."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from flagsvc_client import EvaluationDetails, FlagClient
from flagsvc_client.testing import InMemoryFlagClient

from tests.languages.asked import until_ready
from tests.providers import node_app
from tests.providers.node_app import NodeApp
from tests.replicas import Process

_FILE = json.loads((Path(__file__).parent / "conformance.json").read_text())
FLAGS, CONTEXTS = _FILE["flags"], _FILE["contexts"]


class Case(NamedTuple):
    key: str
    kind: str
    default: Any
    context: int
    value: Any
    variant: str | None
    reason: str
    error: str | None

    @property
    def answer(self) -> tuple[Any, ...]:
        return self.value, self.variant, self.reason, self.error


CASES = [Case(*case) for case in _FILE["cases"]]
DIFFERENCES = {Case(*each["case"]): tuple(each["node"]) for each in _FILE["differences"]}
"""Cases that Node's provider answers otherwise than flagd's daemon and flagsvc, with its answers."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    file = tmp_path_factory.mktemp("shared") / "flags.json"
    file.write_text(json.dumps(FLAGS))
    with Process("--store", f"file:{file}", FLAGSVC_DRAIN_S="0") as process:
        until_ready(process)
        yield process


def differing(client: FlagClient) -> list[str]:
    """Return the cases that the client answers otherwise; a batch for each context, as values of any type."""
    wrong = []
    for number, context in enumerate(CONTEXTS):
        cases = [case for case in (*CASES, *DIFFERENCES) if case.context == number]
        found = client.batch([case.key for case in cases], context)
        wrong += [f"{case}: {answer}" for case in cases if (answer := _answer(case, found[case.key])) != case.answer]
    return wrong


def _answer(case: Case, found: EvaluationDetails[Any]) -> tuple[Any, ...]:
    value = case.default if found.variant is None else found.value
    return value, found.variant, str(found.reason), found.error_code and str(found.error_code)


def test_in_memory() -> None:
    assert differing(InMemoryFlagClient(FLAGS)) == []


@pytest.mark.parametrize("local", [False, True], ids=["network", "local"])
def test_with_a_server(server: Process, local: bool) -> None:
    with FlagClient(server.address, local=local, timeout_s=10.0, wait_ready_s=20.0) as client:
        assert differing(client) == []


def test_typescript_in_process_through_flagds_provider(server: Process) -> None:
    node_app.install()
    with NodeApp(resolverType="in-process", port=server.sync_port) as app:
        wrong = []
        for case, wanted in [*((case, case.answer) for case in CASES), *DIFFERENCES.items()]:
            found = app.evaluate(case.kind, case.key, case.default, CONTEXTS[case.context])
            answer = found["value"], found["variant"] or None, found["reason"], found["errorCode"]
            wrong += [f"{case}: {answer}"] if answer != wanted else []
    assert wrong == [], chr(10).join(wrong)


def test_the_file_is_not_shrunk() -> None:
    assert (len(FLAGS["flags"]), len(CONTEXTS), len(CASES), len(DIFFERENCES)) == (61, 48, 633, 7)


def test_the_documents_name_every_difference_with_its_reason() -> None:
    page = (Path(__file__).parents[2] / "docs" / "flagd.md").read_text()
    table = page.partition("<!-- differences -->")[2].partition("<!-- /differences -->")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table if line.startswith("| `")]
    default = {"no": "default"}
    found = [(case.key, case.variant, default.get(node[1], node[1])) for case, node in DIFFERENCES.items()]
    assert [(flag.strip("`"), flagd, node) for flag, _, _, flagd, node, _ in rows] == found
    assert all(why for *_, why in rows)
