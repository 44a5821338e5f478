"""The TypeScript client: built, its types checked, and its own tests run against `flagsvc serve`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.providers import node_app
from tests.providers.cases import FLAGS, SWITCH, flag
from tests.providers.servers import serving
from tests.tls.serving import serving_mutual
from tests.typescript.building import build, npm

IN_2031 = {"if": [{"==": [{"substr": [{"var": "at"}, 0, 8]}, "2031-01-"]}, "on", "off"]}
FLAGS_HERE = [
    *FLAGS,
    flag("huge", {"huge": 9_007_199_254_740_993}, "huge"),
    flag("since", SWITCH, "off", targeting=IN_2031),
    flag("toggled", SWITCH, "on"),
    flag("cut", SWITCH, "on"),
    *(flag(key, SWITCH, "on") for key in ("past", "planned", "moving")),
    flag("shared", SWITCH, "on"),
    flag("needing", SWITCH, "on"),
]


CALLS = 2_000, pytest.param(10_000, marks=pytest.mark.long)
"""How many calls are made at once: four times as many as a connection takes, and twenty times."""


@pytest.mark.xdist_group("typescript")
@pytest.mark.parametrize("calls", CALLS)
def test_the_client_passes_its_tests_against_a_real_server(tmp_path: Path, calls: int) -> None:
    build()
    node_app.install()  # with flagd's engine
    with serving(tmp_path / "flags.db", FLAGS_HERE) as (process, _), serving_mutual(tmp_path) as encrypted:
        environment = {"FLAGSVC_TLS_TARGET": encrypted.process.address, "FLAGSVC_TLS_FOLDER": str(tmp_path)}
        output = npm("test", seconds=110, FLAGSVC_TARGET=process.address, FLAGSVC_CALLS=str(calls), **environment)
    counts = {name: int(number) for name, number in re.findall(r"^. (\w+) (\d+)$", output, re.MULTILINE)}
    assert counts["pass"] == counts["tests"] > 20
