"""Random graphs of prerequisites and segments in Go's engine, which `make test` cannot ask: flagsvc's variants.

GRAPHS_SEED chooses others. Python's and Node's engines are asked by tests/dependencies/test_export.py.
"""

from __future__ import annotations

import pytest

from tests.dependencies.engines import HAND_MADE, Variants, Worlds, compared, run_engine
from tests.dependencies.graphs import MANY
from tests.languages.clients import CLIENTS, HERE, build_graphs
from tests.languages.conftest import Say
from tests.languages.waiting import runs

pytestmark = pytest.mark.timeout(3700)
GO = next(client for client in CLIENTS if str(client) == "go-in-process")


def in_go(worlds: Worlds) -> Variants:
    build_graphs()
    return run_engine(["build/graphs"], HERE / "go", worlds)


def test_flags_made_by_hand(say: Say) -> None:
    if runs(GO, say):
        worlds = Worlds([HAND_MADE])
        assert worlds.differences(2, in_go(worlds)) == []


def test_many_graphs(say: Say) -> None:
    if runs(GO, say):
        say(f"Go, bucketing 2, {compared(MANY, 2, in_go)}")
