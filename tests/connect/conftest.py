"""One server for all tests that only ask."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.connect.asking import Asked, asking
from tests.providers.cases import COLORS, FLAGS, SWITCH, flag

BY_TIER = {"if": [{"==": [{"var": "tier"}, "gold"]}, "on", "off"]}


@pytest.fixture(scope="session")
async def asked(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Asked]:
    others = [
        flag("of-tenant", COLORS, "red", flag_set="tenant-a"),
        flag("by-tier", SWITCH, "off", targeting=BY_TIER),
        flag("moving", SWITCH, "on"),
    ]
    store = tmp_path_factory.mktemp("connect") / "flags.db"
    settings = {"ofrep_port": 0, "context_from_headers": "X-Tier=tier", "cors_origins": "https://app.example,*"}
    async with asking(store, [*FLAGS, *others], http_host_names="flags.internal", **settings) as asked:
        yield asked
