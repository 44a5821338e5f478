"""Each process of a parallel run rewrites the assertions of its share of the tests, before all of them collect.

Pytest keeps what it has rewritten beside the tests. On a fresh clone nothing is there, and four processes that collect
at the same time would each rewrite everything: four times ten seconds of CPU.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from _pytest.assertion import rewrite

HERE = Path(__file__).parent


def rewrite_share(config: pytest.Config, number: int, count: int) -> None:
    """Rewrite every `count`-th module of tests, from `number` on, unless that was done in an earlier run."""
    if sys.dont_write_bytecode or config.getoption("assertmode") != "rewrite":
        return
    state = config.stash[rewrite.assertstate_key]
    for path in sorted(HERE.glob("**/test_*.py"))[number::count]:
        folder = rewrite.get_cache_dir(path)
        kept = folder / f"{path.stem}{rewrite.PYC_TAIL}"
        if rewrite.try_makedirs(folder) and rewrite._read_pyc(path, kept) is None:
            stat, code = rewrite._rewrite_test(path, config)
            rewrite._write_pyc(state, code, stat, kept)
