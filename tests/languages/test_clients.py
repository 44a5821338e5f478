"""Unmodified clients of other languages, with their defaults, against `flagsvc serve`: one list of questions."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.languages import splits
from tests.languages.asked import FLAGS, FlagFile, differences, server_of, serving_questions, until_ready
from tests.languages.clients import CLIENTS, WRAPPED, Client
from tests.languages.conftest import Say
from tests.languages.waiting import change, runs, shows, until
from tests.providers.events import CHANGED
from tests.replicas import Process

pytestmark = pytest.mark.timeout(3700)
LIKE_FLAGD = {"go-rpc", "go-in-process", "go-ofrep", "node-rpc", "node-in-process"}
"""Those whose split is flagd's: all over the network, and the engines of Go and, for keys of ASCII, Node."""
IDLE_S = float(os.environ.get("IDLE_SECONDS", "45"))
"""Longer than the server waits for a silent connection's answer to its pings."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with serving_questions(tmp_path_factory.mktemp("served")) as (server, _):
        yield server


@pytest.mark.parametrize("client", [*CLIENTS, *WRAPPED], ids=str)
def test_answers(client: Client, served: Process, say: Say) -> None:
    if not runs(client, say):
        return
    with client.app(served) as app:
        until(lambda: shows(app, value=True), app)
        found = differences(str(client), app.evaluate)
        assert not found, "\n".join(f"{name}: {wrong}" for name, wrong in found.items())


@pytest.mark.parametrize("client", [client for client in CLIENTS if str(client) in LIKE_FLAGD], ids=str)
def test_splits(client: Client, served: Process, say: Say) -> None:
    if not runs(client, say):
        return
    own_engine = str(client) == "node-in-process"  # it splits people with other keys in its own way, with flagd too
    people = range(splits.ASCII if own_engine else splits.PEOPLE)
    with client.app(served) as app:
        until(lambda: shows(app, value=True), app)
        for key, variants in splits.VARIANTS.items():
            found = [app.evaluate("string", key, "-", splits.context(number))["variant"] for number in people]
            assert "".join(found) == variants[: len(people)]
    say(f"{client}: {len(people)} people x {len(splits.VARIANTS)} flags, the variants are flagd's")


@pytest.mark.parametrize("client", [client for client in CLIENTS if client.change], ids=str)
def test_a_change_and_a_restart(client: Client, tmp_path: Path, say: Say) -> None:
    if not runs(client, say):
        return
    with serving_questions(tmp_path) as (server, file), client.app(server) as app:
        until(lambda: shows(app, value=True), app)
        change(client, app, file.toggle, "off")
        for end in (server.stop, server.kill):
            end()
            file.toggle("on")
            server.start()
            until(lambda: shows(app, value=True), app)
            change(client, app, file.toggle, "off")


def test_idle_streams_stay(tmp_path: Path, say: Say) -> None:
    """All clients at once, with nothing to do: none sees an event, and each sees the change that follows."""
    clients = [client for client in CLIENTS if client.change and runs(client, say)]
    with serving_questions(tmp_path) as (server, file), ExitStack() as stack:
        apps = {client: stack.enter_context(client.app(server)) for client in clients}
        for app in apps.values():
            until(lambda app=app: shows(app, value=True), app)  # type: ignore[misc]
        marks = {client: app.events.mark() for client, app in apps.items()}
        time.sleep(IDLE_S)
        seen = {str(client): events for client, app in apps.items() if (events := app.events.since(marks[client]))}
        assert not seen
        file.toggle("off")
        for client, app in apps.items():
            until(lambda app=app: shows(app, value=False), app)  # type: ignore[misc]
            names = {seen.event for seen in app.events.since(marks[client])}
            assert names == ({CHANGED} if client.events else set()), client


@pytest.mark.parametrize("client", CLIENTS, ids=str)
def test_a_selector(client: Client, tmp_path: Path, say: Say) -> None:
    if not runs(client, say):
        return
    file = FlagFile(tmp_path / "flags.json")
    switch = FLAGS["flags"]["toggled"]
    flags = {f"of-{name}": {**switch, "metadata": {"flagSetId": name}} for name in ("web", "mail")}
    file.path.write_text(json.dumps({"flags": flags}))
    with server_of(file) as server:
        until_ready(server)
        with client.app(server, "flagSetId=web") as app:
            until(lambda: app.value("of-web", default=False, kind="boolean") is True, app)
            other = app.evaluate("boolean", "of-mail", default=False)
            assert (other["value"], bool(other.get("errorCode"))) == (not client.selects, client.selects)


@pytest.mark.parametrize("client", [client for client in CLIENTS if client.late], ids=str)
def test_a_server_that_starts_later(client: Client, tmp_path: Path, say: Say) -> None:
    if not runs(client, say):
        return
    server = server_of(FlagFile(tmp_path / "flags.json"))
    with client.app(server) as app:
        assert app.value("toggled", default=False, kind="boolean") is False
        with server:
            until(lambda: shows(app, value=True), app)
