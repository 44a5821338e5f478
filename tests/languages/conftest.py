"""What `make languages` runs and `make test` does not: it needs toolchains and downloads."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.languages.samples import EVERYTHING

collect_ignore = [] if EVERYTHING else ["test_clients.py", "test_plain_clients.py"]

Say = Callable[[str], None]


@pytest.fixture
def say(capfd: pytest.CaptureFixture[str]) -> Say:
    """Report to a person what was not run."""

    def report(text: str) -> None:
        with capfd.disabled():
            print(f"\n{text}")  # noqa: T201

    return report
