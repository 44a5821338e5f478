"""A common start for tests of the checker."""

from __future__ import annotations

import pytest

from tests.faults.handmade import FLAG, Handmade


@pytest.fixture
def made() -> Handmade:
    """A flag that was created at 0.5 s and seen by both replicas."""
    record = Handmade()
    record.write("create", FLAG, 0.5)
    for on in (0, 1):
        record.see(FLAG, 1.0, on=on)
    return record
