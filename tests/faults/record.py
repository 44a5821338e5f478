"""What happened in a run: every call, every fault, and the stores' state at the end. The checker reads nothing else.

Moments are `time.monotonic()` of the one process that made all calls. A start is taken before a call is sent, an end
after its answer was read, so that what is found to be wrong is wrong also by the exact times.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.attempts import Attempt, Credential, OpenStream, TokenChange
from tests.faults.timed import Moved, Plan

NEVER = math.inf
NO_VALUE = -1
OK = 0
_PACKED = struct.Struct("<ddqqqiHHBBBBBx")
ROW = np.dtype(
    {
        "names": [
            *("start", "end", "revision", "value", "token", "age_ms", "incarnation", "flag"),
            *("status", "reason", "error", "source", "kind"),
        ],
        "formats": ["f8", "f8", "i8", "i8", "i8", "i4", "u2", "u2", "u1", "u1", "u1", "u1", "u1"],
        "offsets": [0, 8, 16, 24, 32, 40, 44, 46, 48, 49, 50, 51, 52],
        "itemsize": _PACKED.size,
    }
)
UNARY, BATCH, TOKEN = 0, 1, 2


@dataclass(slots=True)
class Write:
    """One attempt to change a flag through a replica. The history has its number as the reason."""

    number: int
    kind: str
    """create, update, toggle, delete; pause, resume, edit: of a rollout; plan: no answer says that it was made."""
    flag: str
    incarnation: int
    wait_for: int
    start: float
    value: int = NO_VALUE
    """The value that an update or creation sets: no other write has it."""
    enabled: bool = True
    end: float = NEVER
    acknowledged: bool = False
    revision: int = 0
    status: int = 0
    reached: int = 0
    applied_by: list[str] = field(default_factory=list)
    lagging: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"write {self.number}"


@dataclass(slots=True)
class ForeignWrite:
    """A change by a plain driver straight in MongoDB, without a revision."""

    number: int
    kind: str
    """update, insert or delete."""
    flag: str
    start: float
    value: int = NO_VALUE
    end: float = NEVER
    done: bool | None = None
    """None: unknown; the answer was lost."""
    base: int = 0
    """The revision that the document had; 0 for none."""


@dataclass(slots=True)
class Failure:
    """A call that failed. `reason`: the ErrorInfo's; empty when the client's own library made the error."""

    what: str
    """evaluate, batch, token, read, a write's kind, or what a caller without the right was refused."""
    start: float
    end: float
    incarnation: int
    code: str
    reason: str
    text: str
    flag: str = ""


@dataclass(slots=True)
class Incarnation:
    """One process of a replica, from its start to its end."""

    number: int
    replica: int
    pid: int
    started: float
    name: str = ""
    ready: float = NEVER
    ended: float = NEVER
    pauses: list[list[float]] = field(default_factory=list)
    crashed: bool = False
    """Whether it ended by itself."""
    starved: list[list[float]] = field(default_factory=list)
    """Since when, until when, and for how long in between it could have run but got no CPU."""

    def disturbed(self, start: float, end: float) -> bool:
        """Whether the process was not ready, frozen or ending at some moment of this time."""
        if start < self.ready or end > self.ended:
            return True
        return any(since <= end and start <= until for since, until in self.pauses)

    def starved_s(self, start: float, end: float) -> float:
        """Return for how long it got no CPU in this time, and a moment around it."""
        return sum(seconds for since, until, seconds in self.starved if since <= end and start <= until)


@dataclass(slots=True)
class FaultWindow:
    """A fault as it really was: from just before it began until everything had recovered."""

    number: int
    kind: str
    target: str
    begin: float
    end: float = NEVER


@dataclass(slots=True)
class Greedy:
    """A caller that sends more than its rate, in calls a second."""

    rate: float = 0.0
    accepted: list[float] = field(default_factory=list)
    """When the answers arrived."""
    refused: int = 0


@dataclass(slots=True)
class Ending:
    """What was found at the end, with every fault healed and no more writes."""

    healed: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    documents: list[dict[str, Any]] = field(default_factory=list)
    audit: list[dict[str, Any]] = field(default_factory=list)
    schedules: list[dict[str, Any]] = field(default_factory=list)
    definitions: list[dict[str, Any]] = field(default_factory=list)
    """What is kept of each revision: key, revision, gone, and what it shows."""
    recovered_s: dict[str, float] = field(default_factory=dict)
    """Per replica, when all of its answers matched the store and none was STALE; infinite: never."""
    differences: list[str] = field(default_factory=list)
    lagging: list[str] = field(default_factory=list)
    drifted: int = 0
    compared: int = 0


@dataclass(slots=True)
class Story:
    """Everything but the evaluations."""

    seed: int
    seconds: float
    bound_s: float
    mongods: int
    flags: list[str]
    began: float = 0.0
    versions: str = ""
    writes: list[Write] = field(default_factory=list)
    foreign: list[ForeignWrite] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    incarnations: list[Incarnation] = field(default_factory=list)
    faults: list[FaultWindow] = field(default_factory=list)
    texts: dict[str, int] = field(default_factory=dict)
    """Every error message of an answer, with how often it occurred."""
    lags: list[list[float]] = field(default_factory=list)
    """The times in which this process itself did not run."""
    links: dict[str, int] = field(default_factory=dict)
    """Connections through the proxies, by link and replica."""
    neighbour_answers: int = 0
    """Evaluations of the second deployment on the same Redis."""
    neighbour_wrong: list[str] = field(default_factory=list)
    """What was wrong there, which no fault of this deployment may cause."""
    token_changes: list[TokenChange] = field(default_factory=list)
    credentials: list[Credential] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    streams: list[OpenStream] = field(default_factory=list)
    greedy: Greedy = field(default_factory=Greedy)
    plans: list[Plan] = field(default_factory=list)
    moved: list[Moved] = field(default_factory=list)
    clock: float = 0.0
    """The wall clock less the monotonic one, in seconds; 0 in records that have no changes over time."""
    skewed: int = -1
    """The replica whose wall clock is wrong."""
    ending: Ending = field(default_factory=Ending)


class Record:
    """The story and the evaluations, 54 bytes each."""

    def __init__(self, story: Story, evaluations: bytes | bytearray = b"") -> None:
        self.story = story
        self._packed = bytearray(evaluations)

    def __len__(self) -> int:
        return len(self._packed) // _PACKED.size

    def evaluated(self, start: float, end: float, *values: int) -> None:
        """Record one evaluation: its values in the order of ROW's names."""
        self._packed += _PACKED.pack(start, end, *values)

    def rows(self) -> np.ndarray[Any, Any]:
        """Return the evaluations as a table, ordered by their ends."""
        return np.frombuffer(bytes(self._packed), dtype=ROW)

    def save(self, path: Path) -> None:
        """Write everything to a file."""
        text = json.dumps(asdict(self.story))
        with path.open("wb") as file:
            np.savez_compressed(file, rows=np.frombuffer(self._packed, dtype="u1"), story=np.array(text))

    @staticmethod
    def load(path: Path) -> Record:
        """Read what `save` wrote."""
        with np.load(path) as saved:
            story = json.loads(str(saved["story"]))
            return Record(_story(story), saved["rows"].tobytes())


def _story(saved: dict[str, Any]) -> Story:
    lists = {
        "writes": Write,
        "foreign": ForeignWrite,
        "failures": Failure,
        "incarnations": Incarnation,
        "faults": FaultWindow,
        "token_changes": TokenChange,
        "credentials": Credential,
        "attempts": Attempt,
        "streams": OpenStream,
        "plans": Plan,
        "moved": Moved,
    }
    made: dict[str, Any] = {f.name: saved[f.name] for f in fields(Story) if f.name in saved}
    for name, kind in lists.items():
        made[name] = [kind(**each) for each in saved.get(name, ())]  # older records have fewer
    made["greedy"] = Greedy(**saved["greedy"])
    made["ending"] = Ending(**saved["ending"])
    return Story(**made)
