"""What tests of clients wait for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tests.languages.clients import Client
from tests.languages.conftest import Say
from tests.providers.events import CHANGED
from tests.providers.line_app import LineApp

PATIENCE_S = 90
"""Clients wait up to a minute between two attempts."""


def runs(client: Client, say: Say) -> bool:
    """Whether the client's toolchain is here; reported where it is not."""
    lacking = client.lacking()
    if lacking:
        say(f"{client} was not run: {lacking}")
    return not lacking


def until(condition: Callable[[], bool], app: LineApp) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"only events {app.events.names()}"
        time.sleep(0.1)


def shows(app: LineApp, value: Any) -> bool:
    """Whether the client's answer is this, and no error."""
    found = app.evaluate("boolean", "toggled", not value)
    return found["value"] is value and not found.get("errorCode")


def change(client: Client, app: LineApp, toggle: Callable[[str], None], variant: str) -> None:
    """Change the flag's default variant, and wait for the event and the new answer."""
    mark = app.events.mark()
    toggle(variant)
    until(lambda: shows(app, value=variant == "on"), app)
    if client.events:
        app.events.until(CHANGED, since=mark, seconds=PATIENCE_S)
