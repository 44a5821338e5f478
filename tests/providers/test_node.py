"""The unmodified Node provider against `flagsvc serve`: over RPC, and in process where that differs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.providers.cases import COLORS, NODE_CASES, SELECTED_CASES, SWITCH, Case, flag
from tests.providers.events import CHANGED, ERROR, READY, STALE
from tests.providers.node_app import NodeApp
from tests.providers.servers import calls_of, serving, serving_default_ports
from tests.replicas import Process

pytestmark = pytest.mark.usefixtures("node_packages")

IN_PROCESS = {"resolverType": "in-process"}
QUICK = {"retryBackoffMs": 100, "retryBackoffMaxMs": 300}
"""Reconnect soon in tests that are not about the defaults."""


@pytest.fixture(scope="module")
def app(node_packages: None, served: Process) -> Iterator[NodeApp]:
    with NodeApp(port=served.port) as app:
        yield app


def assert_answer(case: Case, found: dict[str, Any], *, process: bool = False) -> None:
    assert found["value"] == case.value
    assert found["reason"] == case.reason_in(process=process)
    assert (found["variant"] or None) == case.variant
    assert found["errorCode"] == case.error


@pytest.mark.parametrize("case", NODE_CASES, ids=str)
def test_answers(app: NodeApp, case: Case) -> None:
    assert_answer(case, app.ask(case))


@pytest.fixture(scope="module")
def app_in_process(node_packages: None, served: Process) -> Iterator[NodeApp]:
    with NodeApp(**IN_PROCESS, port=served.sync_port) as app:
        yield app


@pytest.mark.parametrize("case", NODE_CASES, ids=str)
def test_answers_in_process(app_in_process: NodeApp, case: Case) -> None:
    assert_answer(case, app_in_process.ask(case), process=True)


@pytest.mark.parametrize("selector", ["flagSetId=tenant-a", "source=tenant-a", "tenant-a"])
def test_a_selector_chooses_the_flag_set(served: Process, selector: str) -> None:
    with NodeApp(port=served.port, selector=selector) as app:
        for case in SELECTED_CASES:
            assert_answer(case, app.ask(case))


def test_an_application_sees_metadata(app: NodeApp, served: Process) -> None:
    assert app.evaluate("boolean", "boolean", False)["metadata"] == {"team": "web", "rank": 3, "live": True}
    with NodeApp(port=served.port, selector="flagSetId=tenant-a") as tenant:
        assert tenant.evaluate("string", "only-a", "-")["metadata"] == {"tier": "gold", "flagSetId": "tenant-a"}


def test_a_failed_evaluation_is_not_retried(app: NodeApp, served: Process) -> None:
    before = calls_of(served, "ResolveString")
    for _ in range(3):
        assert app.evaluate("string", "chosen", "mine", {"choice": "green"})["errorCode"] == "GENERAL"
    assert calls_of(served, "ResolveString") - before == 3


@pytest.mark.xdist_group("default ports")
@pytest.mark.parametrize("mode", [{}, IN_PROCESS], ids=["rpc", "in-process"])
def test_default_port_and_no_option_through_a_restart(tmp_path: Path, mode: dict[str, Any]) -> None:
    with (
        serving_default_ports(tmp_path / "flags.db", [flag("color", COLORS, "blue")]) as (process, operator),
        NodeApp(**mode) as app,
    ):
        assert app.value("color", "-") == "#00f"
        mark = app.events.mark() if mode else app.events.settle("color")
        operator.set_default("color", "red")
        app.events.until(CHANGED, flag="color", since=mark)
        assert app.value("color", "-") == "#f00"
        mark = app.events.mark()
        process.stop()
        app.events.until(STALE, since=mark)
        process.start()
        app.events.until(READY, since=mark, seconds=25)
        mark = app.events.mark()
        operator.set_default("color", "blue")
        app.events.until(CHANGED, flag="color", since=mark)
        assert app.value("color", "-") == "#00f"


def test_static_answers_are_cached_until_they_change(tmp_path: Path) -> None:
    flags = [flag("color", COLORS, "blue"), flag("other", SWITCH, "on")]
    with serving(tmp_path / "flags.db", flags) as (process, operator), NodeApp(port=process.port) as app:
        app.events.settle("color")
        asked = [app.evaluate("string", "color", "-")["reason"] for _ in range(3)]
        assert asked == ["STATIC", "CACHED", "CACHED"]
        app.value("other", False, "boolean")
        mark = app.events.mark()
        operator.set_default("color", "red")
        app.events.until(CHANGED, flag="color", since=mark)
        found = app.evaluate("string", "color", "-")
        assert (found["value"], found["reason"]) == ("#f00", "STATIC")
        assert app.evaluate("boolean", "other", False)["reason"] == "CACHED"


def test_a_change_in_the_selected_set_invalidates_what_is_cached_of_it(tmp_path: Path) -> None:
    """This provider sends its selector with evaluations but not with its event stream."""
    flags = [flag("elsewhere", COLORS, "blue"), flag("color", COLORS, "blue", flag_set="tenant-a")]
    with (
        serving(tmp_path / "flags.db", flags) as (process, operator),
        NodeApp(port=process.port, selector="flagSetId=tenant-a") as app,
    ):
        assert app.evaluate("string", "color", "-")["reason"] == "STATIC"
        app.events.until(CHANGED, flag="color")  # the flag is new: the stream begins with possibly missed changes
        assert [app.evaluate("string", "color", "-")["reason"] for _ in range(2)] == ["STATIC", "CACHED"]
        mark = app.events.mark()
        operator.set_default("color", "red", flag_set="tenant-a")
        app.events.until(CHANGED, flag="color", since=mark)
        assert app.value("color", "-") == "#f00"


def test_every_kind_of_change_reaches_handlers_and_the_next_evaluation(tmp_path: Path) -> None:
    with (
        serving(tmp_path / "flags.db", [flag("color", COLORS, "blue")]) as (process, operator),
        NodeApp(port=process.port) as app,
    ):
        assert app.value("color", "mine") == "#00f"
        mark = app.events.mark()
        operator.toggle("color", enabled=False)
        app.events.until(CHANGED, flag="color", since=mark)
        assert app.value("color", "mine") == "mine"
        mark = app.events.mark()
        operator.toggle("color", enabled=True)
        app.events.until(CHANGED, flag="color", since=mark)
        assert app.value("color", "mine") == "#00f"
        mark = app.events.mark()
        operator.delete("color")
        app.events.until(CHANGED, flag="color", since=mark)
        assert app.evaluate("string", "color", "mine")["errorCode"] == "FLAG_NOT_FOUND"
        mark = app.events.mark()
        operator.create(flag("late", COLORS, "red"))
        app.events.until(CHANGED, flag="late", since=mark)
        assert app.value("late", "mine") == "#f00"


def test_a_change_made_while_the_server_was_away_is_seen(tmp_path: Path) -> None:
    store = tmp_path / "flags.db"
    with (
        serving(store, [flag("color", COLORS, "blue")]) as (process, operator),
        NodeApp(port=process.port, **QUICK) as app,
    ):
        assert app.value("color", "-") == "#00f"
        mark = app.events.mark()
        process.stop()
        app.events.until(STALE, since=mark)
        with serving(store) as (_, elsewhere):
            elsewhere.set_default("color", "red")
        process.start()
        app.events.until(READY, since=mark)
        assert app.value("color", "-") == "#f00"
        mark = app.events.mark()
        operator.set_default("color", "blue")
        app.events.until(CHANGED, flag="color", since=mark)
        assert app.value("color", "-") == "#00f"


def test_a_server_that_crashes_and_stays_away_is_stale_then_an_error(tmp_path: Path) -> None:
    with (
        serving(tmp_path / "flags.db", [flag("color", COLORS, "blue")]) as (process, _),
        NodeApp(port=process.port, retryGracePeriod=1, **QUICK) as app,
    ):
        mark = app.events.mark()
        process.kill()
        stale = app.events.until(STALE, since=mark)
        error = app.events.until(ERROR, since=mark)
        assert error.at - stale.at > 0.5e9
        process.start()
        app.events.until(READY, since=mark)
        assert app.value("color", "mine") == "#00f"
