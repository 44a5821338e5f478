"""One server with all the flags for the tests that only evaluate."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.providers import node_app
from tests.providers.cases import FLAGS, REGION
from tests.providers.servers import serving
from tests.replicas import Process


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server that adds a value to every context; no test changes its flags."""
    store = tmp_path_factory.mktemp("providers") / "flags.db"
    with serving(store, FLAGS, "--context-value", f"region={REGION}") as (process, _):
        yield process


@pytest.fixture(scope="session")
def node_packages() -> None:
    """The Node provider, installed."""
    node_app.install()
