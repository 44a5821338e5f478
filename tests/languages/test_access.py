"""Unmodified clients of a server that requires authentication, each in the way that its provider has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.languages.clients import CLIENTS, Client
from tests.languages.conftest import Say
from tests.languages.guarded import ANONYMOUS, CALLER, FLAG, Guarded, serving_guarded
from tests.languages.waiting import change, runs, shows, until
from tests.providers.events import READY
from tests.providers.line_app import LineApp

pytestmark = pytest.mark.timeout(3700)
SENDERS = {
    "go-in-process",
    "go-ofrep",
    "java-in-process",
    "java-ofrep",
    "java-rpc",
    "node-flagd-web",
    "node-ofrep",
    "node-ofrep-web",
}
"""Those that can send a token."""
REFUSED = "this needs a credential: send authorization: Bearer TOKEN, or x-api-key: TOKEN"


class Shown(NamedTuple):
    """What an application sees of a refusal: the error code of each evaluation, and a text among its events."""

    code: str
    text: str
    ends: bool = False
    """Whether the provider cannot be made."""


SHOWN = {
    "go-rpc": Shown("GENERAL", f"stream error: unauthenticated: {REFUSED}"),
    "go-in-process": Shown("FLAG_NOT_FOUND", "provider initialization failed: connection error"),
    "go-ofrep": Shown("GENERAL", READY),
    "node-rpc": Shown("GENERAL", f"16 UNAUTHENTICATED: {REFUSED}"),
    "node-in-process": Shown("FLAG_NOT_FOUND", f"16 UNAUTHENTICATED: {REFUSED}"),
    "node-ofrep": Shown("GENERAL", READY),
    "node-flagd-web": Shown("PROVIDER_NOT_READY", ""),
    "node-ofrep-web": Shown("PROVIDER_FATAL", "Initialization failed"),
    "java-rpc": Shown("GENERAL", "Initialization timeout exceeded"),
    "java-in-process": Shown("FLAG_NOT_FOUND", "Initialization timeout exceeded"),
    "java-ofrep": Shown("GENERAL", READY),
    "rust-rpc": Shown("GENERAL", ""),
    "rust-in-process": Shown("", "Timeout: deadline has elapsed", ends=True),
    "rust-rest": Shown("GENERAL", ""),
}
SENDING = [client for client in CLIENTS if str(client) in SENDERS]
SILENT = [client for client in CLIENTS if str(client) not in SENDERS]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with serving_guarded(tmp_path_factory.mktemp("guarded")) as served:
        yield served


@pytest.fixture(scope="module")
def mutual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with serving_guarded(tmp_path_factory.mktemp("mutual"), client_certificates="sync") as served:
        yield served


@pytest.fixture(scope="module")
def anonymous(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with serving_guarded(tmp_path_factory.mktemp("anonymous"), anonymous=ANONYMOUS) as served:
        yield served


@pytest.mark.parametrize("client", SENDING, ids=str)
def test_a_token(client: Client, guarded: Guarded, say: Say) -> None:
    if not runs(client, say):
        return
    guarded.toggle("on")
    access = guarded.access["read" if client.mode == "in-process" else "evaluate"]
    with client.app(guarded.server, access=access) as app:
        until(lambda: shows(app, value=True), app)
        change(client, app, guarded.toggle, "off")


@pytest.mark.parametrize("client", CLIENTS, ids=str)
def test_a_wrong_token_or_none_is_refused(client: Client, guarded: Guarded, say: Say) -> None:
    if not runs(client, say):
        return
    access = guarded.wrong if str(client) in SENDERS else guarded.access["none"]
    with client.app(guarded.server, access=access) as app:
        assert_refused(app, SHOWN[str(client)])


def assert_refused(app: LineApp, shown: Shown) -> None:
    if shown.ends:
        app.events.until(f"FAILED: {shown.text}")
        return
    found = app.evaluate("boolean", FLAG, default=True)
    assert (found["value"], found["reason"], found["errorCode"]) == (True, "ERROR", shown.code)
    assert not shown.text or any(shown.text in name for name in app.events.names())


@pytest.mark.parametrize("client", SILENT, ids=str)
def test_an_anonymous_listener(client: Client, anonymous: Guarded, say: Say) -> None:
    if not runs(client, say):
        return
    anonymous.toggle("on")
    with client.app(anonymous.server, access=anonymous.access["none"]) as app:
        until(lambda: shows(app, value=True), app)
        if client.change:
            change(client, app, anonymous.toggle, "off")


GO = next(client for client in CLIENTS if str(client) == "go-in-process")


def test_a_client_certificate(mutual: Guarded, say: Say) -> None:
    if not runs(GO, say):
        return
    with GO.app(mutual.server, access=mutual.certified(CALLER)) as app:
        until(lambda: shows(app, value=True), app)
        change(GO, app, mutual.toggle, "off")
    for access in (mutual.certified("other.internal"), mutual.access["none"], mutual.access["read"]):
        with GO.app(mutual.server, access=access) as app:
            assert_refused(app, SHOWN[str(GO)])
