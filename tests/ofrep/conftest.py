"""Servers that speak OFREP: one process with all flags for tests that only evaluate, and quick ones for the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from flagsvc.generated.flagsvc.v1 import types_pb2 as types
from tests.ofrep.asking import Asked, asking
from tests.providers import node_app
from tests.providers.cases import BETA, COLORS, FLAGS, REGION, SWITCH, flag
from tests.providers.servers import serving
from tests.replicas import Process

MAP_LIST = {"list": [1, "a", None, {"x": True}], "deep": {"a": {"b": 0.5}}, "none": None}
WHOLE_FLOATS = {"a": 10.0, "b": [1.0, 0.5, {"c": 2.0}], "large": 1e20, "larger": 1e21, "text": "1.0"}
OTHERS = [
    flag("map", {"only": MAP_LIST}, "only"),
    flag("whole-floats", {"only": WHOLE_FLOATS}, "only", metadata={"rank": 7.0}),
    flag("whole-float", {"ten": 10.0}, "ten"),
    flag("float-or-whole", {"low": 0.5, "high": 2}, "high"),
    flag("tier", SWITCH, "off", targeting={"if": [{"==": [{"var": "tier"}, "gold"]}, "on", "off"]}),
    flag("user", SWITCH, "off", targeting={"if": [{"==": [{"var": "user"}, "ann"]}, "on", "off"]}),
    flag("a/b c?ü", SWITCH, "on"),
    flag("beta-no-rule", COLORS, "red", status=BETA),
]


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A server that adds a value to every context; no test changes its flags."""
    store = tmp_path_factory.mktemp("ofrep") / "flags.db"
    with serving(store, FLAGS, "--context-value", f"region={REGION}") as (process, _):
        yield process


@pytest.fixture(scope="session")
def node_packages() -> None:
    """The npm providers, installed."""
    node_app.install()


@pytest.fixture(scope="session")
async def asked(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Asked]:
    """A server with all the flags; no test changes them."""
    settings = {"context_values": "tier=silver,region=eu-central", "context_from_headers": "X-Tier=tier,X-User=user"}
    async with asking(tmp_path_factory.mktemp("asked") / "flags.db", [*FLAGS, *OTHERS], **settings) as asked:
        yield asked


@pytest.fixture
async def few(tmp_path: Path) -> AsyncIterator[Asked]:
    """A server for one test, with a few flags."""
    async with asking(tmp_path / "flags.db", FEW) as asked:
        yield asked


FEW: list[types.Flag] = [
    flag("color", COLORS, "blue"),
    flag("by-country", COLORS, "red", targeting={"if": [{"==": [{"var": "country"}, "CH"]}, "blue", None]}),
    flag("switch", SWITCH, "on"),
    flag("color", COLORS, "red", flag_set="tenant-a"),
]
