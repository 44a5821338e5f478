"""A fuzzed call, what it was answered, and whether that answer may be."""

from __future__ import annotations

import base64
import json
import re
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import grpc

_ROOT = Path(__file__).resolve().parents[2]
_LEAK = re.compile(
    rb"Traceback|site-packages|File \"|\.py\b|\b0x[0-9a-f]{8,}|<[\w.]+ object|"
    rb"(?:mongodb|redis|sqlite|file)[\w+]*://[^\s\x22]*[\d@]|\d+\.\d+\.\d+\.\d+:\d+|/usr/|/tmp/|"
    + b"|".join(re.escape(str(path).encode()) for path in (_ROOT, Path(sys.prefix), Path.home()) if len(path.parts) > 1)
)
"""A traceback, a path or an address, of a server or in memory: what no error may show. No odd value contains one."""
_RAISED = re.compile(rb"an internal error occurred|Unexpected <class|Internal Server Error")
"""What flagsvc, gRPC and the HTTP server say of an exception."""
CODES = {code.value[0]: code.name for code in grpc.StatusCode}
"""The names of gRPC's statuses by their numbers."""
FRAMES = "frames of HTTP/2"
REFUSED_BY_GRPC = "REFUSED_BY_GRPC"
"""The status of bytes that are no call. The words are the transport's own, which flagsvc cannot change."""
_GENERAL = ("/flagd.evaluation.", "/schema.")
"""flagd's protocol has UNKNOWN for a rule that fails, with this text in front. INTERNAL is never meant."""


@dataclass
class Call:
    """What is sent: over gRPC some messages, over HTTP the bytes of a request in parts."""

    method: str
    parts: list[bytes]
    headers: list[tuple[str, str | bytes]] = field(default_factory=list)
    timeout: float = 2.0
    cancel_after: float | None = None
    compression: int = 0
    streams: bool = False
    port: str = "port"

    @property
    def is_http(self) -> bool:
        """Whether it is a request over HTTP/1.1."""
        return self.port.endswith("_port")

    def to_json(self) -> dict[str, Any]:
        """Return a form that a file can have."""
        return {**asdict(self), "parts": _encoded(self.parts), "headers": [_encoded(each) for each in self.headers]}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Call:
        """Return the call of a file."""
        headers = [tuple(map(_decoded, each)) for each in saved["headers"]]
        return cls(**{**saved, "parts": [_decoded(part) for part in saved["parts"]], "headers": headers})


@dataclass
class Answer:
    """A status, and the text and details of an error. Parts of an answer that is none are not kept."""

    status: str
    error: bytes = b""
    message: bytes | None = None

    @property
    def shape(self) -> str:
        """The status with the error's words, without the parts that differ from call to call."""
        words = re.sub(rb"'[^']*'|\"[^\"]*\"|[^a-zA-Z ]+", b"*", self.error[:160])
        return f"{self.status} {words.decode(errors='replace')}"


def fault(call: Call, answer: Answer) -> str:
    """Return what is wrong about an answer, if anything is."""
    if answer.status == REFUSED_BY_GRPC:
        return ""
    if match := _LEAK.search(answer.error):
        return f"the error shows {match[0][:40]!r}"
    if match := _RAISED.search(answer.error):
        return f"the status is {answer.status}: {answer.error[match.start() :][:200]!r}"
    if answer.status.isdigit():
        allowed = answer.status != "500" or b'"errorDetails":"the answer would be over ' in answer.error
    elif answer.status == "UNKNOWN":
        allowed = call.method.startswith(_GENERAL) and b"General error: " in answer.error
    else:
        allowed = answer.status != "INTERNAL"
    return "" if allowed else f"the status is {answer.status}: {answer.error[:200]!r}"


def save(folder: Path, what: str, calls: list[Call]) -> Path:
    """Write calls into a new file, the newest last."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{len(list(folder.glob('*.json')))}.json"
    path.write_text(json.dumps({"what": what, "calls": [call.to_json() for call in calls]}, indent=1))
    return path


def load(path: Path) -> list[Call]:
    """Read the calls of a file."""
    return [Call.from_json(each) for each in json.loads(path.read_text())["calls"]]


def _encoded(values: Any) -> list[Any]:
    return [{"base64": base64.b64encode(each).decode()} if isinstance(each, bytes) else each for each in values]


def _decoded(value: Any) -> Any:
    return base64.b64decode(value["base64"]) if isinstance(value, dict) else value
