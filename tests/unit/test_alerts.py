"""docs/runbook.md: its alerts use metrics that exist, each has a part of the page, and all metrics are documented."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
import yaml

from flagsvc.cli.parser import _SUMMARIES, build_parser
from flagsvc.settings import PREFIX, Settings

pytestmark = pytest.mark.xdist_group("alerts")  # all of flagsvc is read once
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "runbook.md").read_text()
RULES = yaml.safe_load(PAGE.partition("```yaml\n")[2].partition("```")[0])["groups"][0]["rules"]
ALERTS = {rule["alert"]: rule["expr"] for rule in RULES}
_SUFFIXES = ("_bucket", "_sum", "_count")


@cache  # it reads every module
def emitted() -> set[str]:
    """Return the names of all metrics: first arguments of samples and histograms, and what is yielded beside a help."""
    names = set()
    for path in (ROOT / "flagsvc").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in {"Sample", "Histogram"} and node.args:
                names |= set(_texts(node.args[0]))
            elif isinstance(node, ast.Yield) and isinstance(node.value, ast.Tuple):
                names |= set(_texts(node.value.elts[0]))
    return names


def _texts(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and str(node.value).startswith("flagsvc_"):
        yield str(node.value)
    elif isinstance(node, ast.JoinedStr) and isinstance(first := node.values[0], ast.Constant):
        yield f"{first.value}*"


def exists(name: str) -> bool:
    plain = next((name.removesuffix(suffix) for suffix in _SUFFIXES if name.endswith(suffix)), name)
    return any(
        re.fullmatch(known.replace("*", r"\w+"), candidate) for known in emitted() for candidate in (name, plain)
    )


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_uses_metrics_that_exist(alert: str) -> None:
    names = re.findall(r"\bflagsvc_\w+", ALERTS[alert])
    assert names or alert == "FlagsvcDown"
    assert [name for name in names if not exists(name)] == []


def test_every_alert_has_its_part_of_the_runbook_and_none_else() -> None:
    assert re.findall(r"^### (\w+)$", PAGE, re.MULTILINE) == list(ALERTS)
    for part in PAGE.partition("## Alerts")[2].split("\n### ")[1:]:
        assert re.findall(r"^- \*\*(\w+)\*\*", part, re.MULTILINE) == ["Callers", "Look", "Do"], part.splitlines()[0]


def test_events_and_problems_that_the_runbook_names_exist() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "flagsvc").rglob("*.py"))
    names = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", PAGE))
    names = {name for name in names if not name.startswith("flagsvc_")}
    assert len(names) > 20
    assert sorted(name for name in names if not re.search(rf"\b{name}\b", sources)) == []


def test_settings_and_commands_that_the_runbook_names_exist() -> None:
    known = {f"{PREFIX}{field.name.upper()}" for field in fields(Settings)}
    assert set(re.findall(r"FLAGSVC_[A-Z_]+", PAGE)) - known == set()
    for line in re.findall(r"`flagsvc ([^`]+)`", PAGE):
        command = [word.replace("KEY", "k").replace("ID", "i") for word in shlex.split(line)]
        assert command[0] in _SUMMARIES
        if len(command) > 1:  # alone it stands for all that it does
            build_parser().parse_args(command)


def test_every_metric_that_the_operating_page_lists_exists() -> None:
    section = (ROOT / "docs" / "operating.md").read_text().partition("## Metrics")[2].partition("\n## ")[0]
    names = {
        name
        for row in section.splitlines()
        if row.startswith("| `")
        for name in re.findall(r"flagsvc_\w+", row.split(" | ")[0])
    }
    assert len(names) > 60
    assert sorted(name for name in names if not exists(name)) == []


def test_every_metric_is_in_the_documents() -> None:
    pages = "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    documented = set(re.findall(r"flagsvc_\w+", pages))
    short = {f"flagsvc_{stem}{rest}" for stem, rest in _SHORTENED}
    missing = {name for name in emitted() if "*" not in name} - documented - short
    assert sorted(missing) == []


_SHORTENED = [
    ("announcements", "_failed_total"),
    ("announcements", "_received_total"),
    ("verify", "_drifted_total"),
    ("verify", "_repaired_total"),
]
"""Written as `..._failed_total` behind a longer name."""
