"""A process with a shifted wall clock has every wall clock shifted, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

PROGRAM = """
from tests.faults.skewed import shift
import datetime, json, time
real = datetime.datetime
shift(3600)
from datetime import UTC, datetime as shifted
import bson, structlog
from google.protobuf.timestamp_pb2 import Timestamp

def off(moment):
    return round(moment.timestamp() - started)

started, steady = time.time() - 3600, time.monotonic()
stamp = Timestamp()
stamp.GetCurrentTime()
read = bson.decode(bson.encode({"at": shifted.now(UTC)}))["at"]
made = [shifted.now(UTC), shifted.fromisoformat("2026-01-02T03:04:05"), shifted(2026, 1, 2), shifted.fromtimestamp(0)]
print(json.dumps({
    "off": [off(shifted.now()), off(shifted.now(UTC)), round(time.time_ns() / 1e9 - started)],
    "protobuf": round(stamp.ToSeconds() - started) in (3599, 3600),
    "one class": all(type(each) is real for each in (*made, read)),
    "instances": all(isinstance(each, shifted) for each in (*made, read)) and not isinstance(1, shifted),
    "steady": time.monotonic() - steady < 1,
    "started": started,
}))
"""


def test_every_wall_clock_is_shifted_and_no_other_clock() -> None:
    root = Path(__file__).parents[2]
    text = subprocess.run([sys.executable, "-c", PROGRAM], cwd=root, capture_output=True, text=True, check=True).stdout
    found = json.loads(text)
    assert abs(found.pop("started") - time.time()) < 30
    assert found == {"off": [3600] * 3, "protobuf": True, "one class": True, "instances": True, "steady": True}
