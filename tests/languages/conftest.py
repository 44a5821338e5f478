"""What `make languages` runs and `make test` does not: it needs toolchains and downloads."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.languages.samples import EVERYTHING

NEEDING = ("access", "clients", "dependencies", "plain_clients", "python_access", "rollouts", "tls")
collect_ignore = [] if EVERYTHING else [f"test_{name}.py" for name in NEEDING]

Say = Callable[[str], None]


@pytest.fixture
def say(capfd: pytest.CaptureFixture[str]) -> Say:
    """Report to a person what was not run."""

    def report(text: str) -> None:
        with capfd.disabled():
            print(f"\n{text}")  # noqa: T201

    return report
