"""Unmodified clients over TLS, each with the options that its provider documents for a CA."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.languages.asked import FlagFile, differences, serving_questions, tls_of
from tests.languages.clients import CLIENTS, Access, Client
from tests.languages.conftest import Say
from tests.languages.waiting import change, runs, shows, until
from tests.replicas import Process

pytestmark = pytest.mark.timeout(3700)


class Served(NamedTuple):
    server: Process
    file: FlagFile
    access: Access


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with TLS on every port for callers."""
    folder = tmp_path_factory.mktemp("tls")
    options, ca = tls_of(folder)
    with serving_questions(folder, *options) as (server, file):
        yield Served(server, file, Access(ca))


@pytest.mark.parametrize("client", CLIENTS, ids=str)
def test_answers_and_a_change(client: Client, served: Served, say: Say) -> None:
    if not runs(client, say):
        return
    with client.app(served.server, access=served.access) as app:
        until(lambda: shows(app, value=True), app)
        found = differences(str(client), app.evaluate)
        assert not found, "\n".join(f"{name}: {wrong}" for name, wrong in found.items())
        for variant in ("off", "on") if client.change else ():
            change(client, app, served.file.toggle, variant)
