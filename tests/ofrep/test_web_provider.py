"""The unmodified OFREP provider for the web (npm) against `flagsvc serve`: all flags at once, and refetches."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc
from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.access.callers import bearer, made, stored
from tests.providers.cases import COLORS, NODE_CASES, SELECTED_CASES, SWITCH, Case, flag
from tests.providers.events import CHANGED, STALE
from tests.providers.node_app import NodeApp
from tests.providers.servers import serving
from tests.replicas import Process

pytestmark = pytest.mark.usefixtures("node_packages")

SELECTED = [["Flagd-Selector", "flagSetId=tenant-a"]]


class WebApp(NodeApp):
    """The application of a web page."""

    program = ("--experimental-eventsource", "--no-warnings", "ofrep.mjs")


def url_of(process: Process) -> str:
    return f"http://127.0.0.1:{process.ofrep_port}"


def until_shown(app: WebApp, key: str, value: str) -> None:
    """Wait until the application's own answer is this; no call of the test causes it."""
    deadline = time.monotonic() + 10
    while app.value(key, "-") != value:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def app(node_packages: None, served: Process) -> Iterator[WebApp]:
    with WebApp(baseUrl=url_of(served)) as app:
        yield app


def assert_answer(case: Case, found: dict[str, Any]) -> None:
    assert found["value"] == case.value
    assert found["reason"] == case.reason
    assert (found["variant"] or None) == case.variant
    assert found["errorCode"] == case.error


@pytest.mark.parametrize("case", NODE_CASES, ids=str)
def test_answers(app: WebApp, case: Case) -> None:
    assert_answer(case, app.ask(case))


def test_a_selector_chooses_the_flag_set(served: Process) -> None:
    with WebApp(baseUrl=url_of(served), headers=SELECTED) as app:
        for case in SELECTED_CASES:
            assert_answer(case, app.ask(case))
        assert app.evaluate("string", "only-a", "-")["metadata"] == {"tier": "gold", "flagSetId": "tenant-a"}


def test_a_change_is_announced_and_seen(tmp_path: Path) -> None:
    flags = [flag("color", COLORS, "blue"), flag("other", SWITCH, "on"), flag("color", COLORS, "red", flag_set="a")]
    with serving(tmp_path / "flags.db", flags) as (process, operator), WebApp(baseUrl=url_of(process)) as app:
        assert app.value("color", "-") == "#00f"
        mark = app.events.mark()
        operator.set_default("color", "red")
        changed = app.events.until(CHANGED, flag="color", since=mark)
        assert changed.flags == ("color",)
        assert app.value("color", "-") == "#f00"
        mark = app.events.mark()
        operator.create(flag("late", COLORS, "red"))
        app.events.until(CHANGED, flag="late", since=mark)
        operator.delete("color")
        app.events.until(CHANGED, flag="color", since=mark)
        assert app.evaluate("string", "color", "-")["errorCode"] == "FLAG_NOT_FOUND"


def test_a_change_in_the_selected_set_is_announced(tmp_path: Path) -> None:
    flags = [flag("color", COLORS, "blue"), flag("color", COLORS, "blue", flag_set="tenant-a")]
    with (
        serving(tmp_path / "flags.db", flags) as (process, operator),
        WebApp(baseUrl=url_of(process), headers=SELECTED) as app,
    ):
        mark = app.events.mark()
        operator.set_default("color", "red", flag_set="tenant-a")
        app.events.until(CHANGED, flag="color", since=mark)
        assert app.value("color", "-") == "#f00"


def test_a_change_while_the_server_was_away_is_seen_when_it_returns(tmp_path: Path) -> None:
    store = tmp_path / "flags.db"
    with serving(store, [flag("color", COLORS, "blue")]) as (process, _), WebApp(baseUrl=url_of(process)) as app:
        assert app.value("color", "-") == "#00f"
        mark = app.events.mark()
        process.stop()
        app.events.until(STALE, since=mark)
        with serving(store) as (_, elsewhere):
            elsewhere.set_default("color", "red")
        assert app.value("color", "-") == "#00f", "what is known stands while the server is away"
        process.start()
        app.events.until(CHANGED, flag="color", since=mark, seconds=20)
        assert app.value("color", "-") == "#f00"


def test_with_a_token_changes_are_announced_by_an_event_stream_that_has_none(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/flags.db"
    (root, root_text), (page, text) = made("admin"), made("evaluate", "default")
    asyncio.run(stored(url, root, page))
    process = Process("--store", url, FLAGSVC_AUTH="required", FLAGSVC_DRAIN_S="0", FLAGSVC_GRACE_S="2")
    with process, grpc.insecure_channel(process.address) as channel:
        stub = pb_grpc.FlagServiceStub(channel)

        def show(variant: str) -> None:
            request = pb.UpdateFlagRequest(flag=types.Flag(key="color", default_variant=variant))
            request.update_mask.paths.append("default_variant")
            stub.UpdateFlag(request, timeout=15, metadata=bearer(root_text), wait_for_ready=True)

        request = pb.CreateFlagRequest(flag=flag("color", COLORS, "blue"))
        stub.CreateFlag(request, timeout=15, metadata=bearer(root_text), wait_for_ready=True)
        options = {"baseUrl": url_of(process), "headers": [["Authorization", f"Bearer {text}"]]}
        with WebApp(**options) as app:
            assert app.value("color", "-") == "#00f"
            mark = app.events.mark()
            show("red")
            app.events.until(CHANGED, flag="color", since=mark)
            assert app.value("color", "-") == "#f00"
            # As when its ticket has expired: it asks for all flags once more, and gets an address that works.
            process.stop()
            with sqlite3.connect(tmp_path / "flags.db") as db:
                db.execute("DELETE FROM ticket_key")
            process.start()
            until_open(process)
            mark = app.events.mark()
            show("blue")
            app.events.until(CHANGED, flag="color", since=mark)


def until_open(process: Process) -> None:
    """Wait until a server that starts has an open event stream of OFREP."""
    deadline, page = time.monotonic() + 20, ""
    while "\nflagsvc_ofrep_streams 1" not in page:
        assert time.monotonic() < deadline
        time.sleep(0.05)
        with contextlib.suppress(httpx.ConnectError):
            page = httpx.get(f"http://127.0.0.1:{process.management_port}/metrics", timeout=5).text


def test_polling_sees_a_change_and_unchanged_answers_are_not_sent_again(tmp_path: Path) -> None:
    with serving(tmp_path / "flags.db", [flag("color", COLORS, "blue")]) as (process, operator):
        options = {"baseUrl": url_of(process), "changeDetection": "polling", "pollInterval": 50}
        with WebApp(**options) as app:
            deadline = time.monotonic() + 10
            while calls_with(process, 304) < 3:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert calls_with(process, 200) == 1
            operator.set_default("color", "red")
            until_shown(app, "color", "#f00")


def calls_with(process: Process, status: int) -> int:
    """Read from the server's metrics how many bulk evaluations had this status."""
    page = httpx.get(f"http://127.0.0.1:{process.management_port}/metrics", timeout=5).text
    wanted = f'flagsvc_call_seconds_count{{code="{status}",method="ofrep/EvaluateAll"}} '
    return next((int(float(line.removeprefix(wanted))) for line in page.splitlines() if line.startswith(wanted)), 0)
