"""A rollout in the engines of flagd's in-process providers: their clocks cannot be set, so its points are moved.

`-s` shows the shares at 21 moments. Java hashes in a way of its own, as for every split, so it moves others.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from flagsvc.core.flagd.writing import write
from flagsvc.core.model import Flag, Status
from tests.languages.asked import FlagFile, server_of, until_ready
from tests.languages.clients import CLIENTS, Client
from tests.languages.conftest import Say
from tests.languages.waiting import runs, until
from tests.rollouts.moments import flag
from tests.rollouts.week import MOMENTS, judged, ours, shifted, version_at

pytestmark = pytest.mark.timeout(3700)
IN_PROCESS = [client for client in CLIENTS if client.mode == "in-process"]
BUCKETINGS = {"go-in-process": 2, "node-in-process": 2, "rust-in-process": 3}
PEOPLE = tuple(f"user-{number}" for number in range(400))
ROUGHLY = 7.5
"""How far the share of 400 people may be from what it should be, in percent: three standard deviations of a half."""
NEAR = 4
"""People who may have moved in the seconds between the change and the question."""


@pytest.mark.parametrize("client", IN_PROCESS, ids=str)
def test_a_rollout_of_nine_days(client: Client, tmp_path: Path, say: Say) -> None:
    if not runs(client, say):
        return
    file, moved = FlagFile(tmp_path / "flags.json"), []
    put(file, 0)
    with server_of(file) as server:
        until_ready(server)
        with client.app(server) as app:
            for number in range(len(MOMENTS)):
                put(file, number)
                wanted = f"m{number}"
                until(lambda wanted=wanted: app.evaluate("string", "moment", "-", {})["value"] == wanted, app)  # type: ignore[misc]
                contexts = ((key, {"targetingKey": key}) for key in PEOPLE)
                moved.append({k for k, context in contexts if app.evaluate("boolean", KEY, False, context)["value"]})
            assert app.evaluate("boolean", KEY, True, {})["value"] is False, "without a key nobody moves"
    measured = judged(moved, len(PEOPLE))
    say(f"{client}: {measured}")
    assert (measured.moved_back, measured.joined_late, measured.out_of_order) == (0, 0, 0)
    assert measured.farthest < ROUGHLY
    if bucketing := BUCKETINGS.get(str(client)):
        different = sum(len(one ^ other) for one, other in zip(moved, ours(PEOPLE, bucketing), strict=True))
        assert different <= NEAR


KEY = "new-checkout"


def put(file: FlagFile, number: int) -> None:
    """Serve the rollout as it is at a moment, as if that were now."""
    of = shifted(version_at(MOMENTS[number]), int(time.time()) - MOMENTS[number])
    name = f"m{number}"
    marker = Flag(key="moment", status=Status.ENABLED, variants={name: name}, default_variant=name)
    file.path.write_text(json.dumps(write([flag(of, key=KEY), marker])))
