"""The unmodified Python provider against `flagsvc serve`, over RPC and in process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from openfeature.exception import ErrorCode

from flagsvc.core.targeting import compile_rule
from tests.providers.cases import CASES, COLORS, SELECTED_CASES, SWITCH, Case, flag
from tests.providers.events import CHANGED, ERROR, READY, STALE
from tests.providers.python_app import PythonApp, assert_answer
from tests.providers.servers import calls_of, serving, serving_default_ports
from tests.replicas import Process

PATIENT = {"deadline_ms": 10_000}
"""A call's deadline; by default half a second, in which a busy machine may not answer."""
QUICK = {"retry_backoff_ms": 100, "retry_backoff_max_ms": 300, **PATIENT}
"""Reconnect soon in tests that are not about the defaults."""


@pytest.fixture(scope="module", params=["rpc", "in-process"])
def in_process(request: pytest.FixtureRequest) -> bool:
    return request.param == "in-process"


def app_of(process: Process, in_process: bool, **options: Any) -> PythonApp:
    return PythonApp(in_process=in_process, port=process.sync_port if in_process else process.port, **options)


@pytest.fixture(scope="module")
def app(served: Process, in_process: bool) -> Iterator[PythonApp]:
    with app_of(served, in_process, **PATIENT) as app:
        yield app


@pytest.mark.parametrize("case", CASES, ids=str)
def test_answers(app: PythonApp, in_process: bool, case: Case) -> None:
    assert_answer(case, app.ask(case), process=in_process)


def test_a_whole_float_is_an_integer_over_rpc(served: Process) -> None:
    """In process the provider's own engine refuses it."""
    with app_of(served, in_process=False) as app:
        found = app.evaluate("integer", "ten", 1)
        assert (found.value, type(found.value), found.variant) == (10, int, "ten")


@pytest.mark.parametrize("selector", ["flagSetId=tenant-a", "source=tenant-a", "tenant-a"])
def test_a_selector_chooses_the_flag_set(served: Process, in_process: bool, selector: str) -> None:
    with app_of(served, in_process, selector=selector) as app:
        for case in SELECTED_CASES:
            assert_answer(case, app.ask(case), process=in_process)


def test_a_split_is_that_of_flagds_daemon_and_in_process_that_of_the_engine(app: PythonApp, in_process: bool) -> None:
    rule = compile_rule({"fractional": [["red", 50], ["blue", 50]]}, "split", fractional_version=3 if in_process else 2)
    found = {}
    for number in range(60):
        found[number] = app.evaluate("string", "split", "-", f"user-{number}").variant
        assert found[number] == rule.evaluate({"targetingKey": f"user-{number}"}, 0)
    assert set(found.values()) == {"red", "blue"}


def test_an_application_in_process_sees_metadata(served: Process) -> None:
    with app_of(served, in_process=True) as app:
        assert app.evaluate("boolean", "boolean", False).flag_metadata == {"team": "web", "rank": 3, "live": True}
    with app_of(served, in_process=True, selector="flagSetId=tenant-a") as app:
        assert app.evaluate("string", "only-a", "-").flag_metadata == {"tier": "gold", "flagSetId": "tenant-a"}


def test_a_failed_evaluation_is_not_retried(served: Process) -> None:
    with app_of(served, in_process=False) as app:
        before = calls_of(served, "ResolveString")
        for _ in range(3):
            found = app.evaluate("string", "chosen", "mine", attributes={"choice": "green"})
            assert found.error_code is ErrorCode.GENERAL
        assert calls_of(served, "ResolveString") - before == 3


def test_a_client_that_pings_all_the_time_stays_connected(served: Process) -> None:
    """The provider's default keepalive of 0 makes gRPC ping as often as it can."""
    pings = [("grpc.keepalive_time_ms", 1), ("grpc.http2.max_pings_without_data", 0)]
    states: list[grpc.ChannelConnectivity] = []
    with grpc.insecure_channel(served.address, options=[*pings, ("grpc.keepalive_permit_without_calls", 1)]) as channel:
        grpc.channel_ready_future(channel).result(5)
        channel.subscribe(states.append)
        time.sleep(6)  # gRPC sends at most one a second
    assert set(states) <= {grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.SHUTDOWN}


@pytest.mark.xdist_group("default ports")
def test_default_ports_and_no_option_through_a_restart(tmp_path: Path, in_process: bool) -> None:
    with (
        serving_default_ports(tmp_path / "flags.db", [flag("color", COLORS, "blue")]) as (process, operator),
        PythonApp(in_process=in_process) as app,
    ):
        assert app.value("color") == "#00f"
        mark = app.events.settle("color")
        operator.set_default("color", "red")
        app.events.until(CHANGED, flag="color", since=mark)
        assert app.value("color") == "#f00"
        mark = app.events.mark()
        process.stop()
        app.events.until(STALE, since=mark, seconds=15)
        process.start()
        app.events.until(READY, since=mark, seconds=25)
        mark = app.events.mark()
        operator.set_default("color", "blue")
        app.events.until(CHANGED, flag="color", since=mark)
        assert app.value("color") == "#00f"


def test_static_answers_are_cached_until_they_change(tmp_path: Path) -> None:
    flags = [flag("color", COLORS, "blue"), flag("other", SWITCH, "on")]
    with serving(tmp_path / "flags.db", flags) as (process, operator), app_of(process, in_process=False) as app:
        app.events.settle("color")
        asked = [str(app.evaluate("string", "color", "-").reason) for _ in range(3)]
        assert asked == ["STATIC", "CACHED", "CACHED"]
        app.value("other", False, "boolean")
        mark = app.events.mark()
        operator.set_default("color", "red")
        app.events.until(CHANGED, flag="color", since=mark)
        found = app.evaluate("string", "color", "-")
        assert (found.value, str(found.reason)) == ("#f00", "STATIC")
        assert str(app.evaluate("boolean", "other", False).reason) == "CACHED"


def test_every_kind_of_change_reaches_handlers_and_the_next_evaluation(tmp_path: Path, in_process: bool) -> None:
    with (
        serving(tmp_path / "flags.db", [flag("color", COLORS, "blue")]) as (process, operator),
        app_of(process, in_process) as app,
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
        assert app.evaluate("string", "color", "mine").error_code is ErrorCode.FLAG_NOT_FOUND
        mark = app.events.mark()
        operator.create(flag("late", COLORS, "red"))
        app.events.until(CHANGED, flag="late", since=mark)
        assert app.value("late", "mine") == "#f00"


def test_a_change_in_another_flag_set_is_not_announced(tmp_path: Path, in_process: bool) -> None:
    flags = [flag(key, COLORS, "blue") for key in ("color", "mark")]
    flags.append(flag("color", COLORS, "blue", flag_set="tenant-a"))
    with (
        serving(tmp_path / "flags.db", flags) as (process, operator),
        app_of(process, in_process, **PATIENT) as app,
        app_of(process, in_process, selector="flagSetId=tenant-a", **PATIENT) as tenant,
    ):
        marks = app.events.settle("mark"), tenant.events.settle("color")
        operator.set_default("color", "red", flag_set="tenant-a")
        tenant.events.until(CHANGED, flag="color", since=marks[1])
        assert (app.value("color"), tenant.value("color")) == ("#00f", "#f00")
        operator.set_default("mark", "red")  # comes after what might have been announced before
        app.events.until(CHANGED, flag="mark", since=marks[0])
        late = [seen for seen in app.events.since(marks[0]) if seen.event == CHANGED and "color" in seen.flags]
        assert late == []


def test_a_change_made_while_the_server_was_away_is_seen(tmp_path: Path, in_process: bool) -> None:
    store = tmp_path / "flags.db"
    with (
        serving(store, [flag("color", COLORS, "blue")]) as (process, operator),
        app_of(process, in_process, **QUICK) as app,
    ):
        assert app.value("color") == "#00f"
        mark = app.events.mark()
        process.stop()
        with serving(store) as (_, elsewhere):
            elsewhere.set_default("color", "red")
        app.events.until(STALE, since=mark)
        process.start()
        app.events.until(READY, since=mark)
        app.events.until(CHANGED, flag="color", since=mark)
        assert app.value("color") == "#f00"
        mark = app.events.mark()
        operator.set_default("color", "blue")
        app.events.until(CHANGED, flag="color", since=mark)
        assert app.value("color") == "#00f"


def test_a_server_that_crashes_and_stays_away_is_stale_then_an_error(tmp_path: Path, in_process: bool) -> None:
    with (
        serving(tmp_path / "flags.db", [flag("color", COLORS, "blue")]) as (process, _),
        app_of(process, in_process, retry_grace_period=1, **QUICK) as app,
    ):
        assert app.value("color", "mine") == "#00f"
        assert app.events.names()[0] in {READY, CHANGED}
        mark = app.events.mark()
        process.kill()
        stale = app.events.until(STALE, since=mark)
        assert app.value("color", "mine") == "#00f", "the cached definition stands while the provider is stale"
        error = app.events.until(ERROR, since=mark)
        assert error.at - stale.at > 0.5e9
        process.start()
        app.events.until(READY, since=mark)
        assert app.value("color", "mine") == "#00f"
