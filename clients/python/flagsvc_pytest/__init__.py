"""The pytest plugin, which pytest loads by itself: the fixture `flagsvc_flags`, and its two settings.

It is a package of its own, so that runs of pytest that do not use it import nothing of the client.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from flagsvc_client.testing.flags import InMemoryFlags


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the settings."""
    parser.addini("flagsvc_flags", "file with the flags of flagsvc_flags, relative to the rootdir", "string")
    parser.addini("flagsvc_strict", "unknown flags and wrong types fail the test", "bool", default=False)


@pytest.fixture
def flagsvc_flags(pytestconfig: pytest.Config) -> Iterator[InMemoryFlags]:
    """Flags in memory that all clients of this process evaluate during the test.

    They are those of the file in the setting `flagsvc_flags`, if any. With `flagsvc_strict` a test fails that asks for
    an unknown flag or a wrong type, even if the code under test caught the error; clear `strict_errors` to allow it.
    """
    from flagsvc_client.testing import use_flags  # noqa: PLC0415  see above

    name = pytestconfig.getini("flagsvc_flags")
    with use_flags(pytestconfig.rootpath / name if name else (), strict=pytestconfig.getini("flagsvc_strict")) as flags:
        yield flags
    if flags.strict_errors:
        pytest.fail("\n".join(sorted({str(error) for error in flags.strict_errors})), pytrace=False)
