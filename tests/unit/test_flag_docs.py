"""docs/flag.md is right about statuses and fields; the links and modules that the documentation names exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flagsvc.api.flag_service.messages import put_evaluation
from flagsvc.core.evaluation import Outcome, prepare
from flagsvc.core.model import STORED_NAMES, Flag, Status
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.serving.reader import Evaluation
from flagsvc.view.entries import Source

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "flag.md").read_text()
RULES = {"none": None, "named": '{"if": [true, "off"]}', "null": '{"if": [false, "off"]}'}
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "clients" / "README.md", *ROOT.glob("docs/**/*.md")]
)


def rows(begin: str, end: str) -> list[list[str]]:
    table = PAGE.partition(begin)[2].partition(end)[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table if line.startswith("| ")][1:]


def described(outcome: Outcome) -> str:
    """Return the outcome in the words of the page; targeting that matches names `off`, the default variant is `on`."""
    values = {None: "no value", "on": "the default variant", "off": "that variant"}
    return f"{outcome.reason}: {values[outcome.variant]}"


def is_enabled(flag: Flag) -> bool:
    outcome = prepare(flag).evaluate({}, 0.0)
    message = pb.FlagEvaluation()
    put_evaluation(message, Evaluation(flag.id, outcome, flag, 1, Source.NEAR, 0.0))
    return message.enabled


def test_what_each_status_evaluates_to() -> None:
    documented = rows("<!-- statuses -->", "<!-- end -->")
    assert {row[0] for row in documented} == set(Status)
    for name, *cells, enabled in documented:
        status = Status(name)
        outcomes = [prepare(Flag(key="k", status=status, targeting=rule)).evaluate({}, 0.0) for rule in RULES.values()]
        assert [described(outcome) for outcome in outcomes] == cells, name
        assert enabled == (
            "yes" if is_enabled(Flag(key="k", status=status, targeting='{"if": [true, "on"]}')) else "no"
        )


def test_every_field_is_documented() -> None:
    documented = {name for row in rows("## Fields", "`etag` is") for name in re.findall(r"`(\w+)`", row[0])}
    assert documented == set(STORED_NAMES.values())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_named_modules_exist(page: Path) -> None:
    text = page.read_text()
    links = [link.partition("#")[0] for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text)]
    missing = [link for link in links if link and not (page.parent / link).exists()]
    modules = re.findall(r"`(flagsvc/[\w/]+(?:\.py|/))`", text)
    assert missing + [module for module in modules if not (ROOT / module).exists()] == []
