"""How many cases a property is tried on: a share of what each test wants, less for `make test-fast`."""

from __future__ import annotations

import os

SHARE = float(os.environ.get("TEST_SHARE", "1"))


def examples(wanted: int) -> int:
    return max(10, int(wanted * SHARE))
