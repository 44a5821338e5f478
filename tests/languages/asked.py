"""The questions of questions.json, which every client is asked, and the server that answers them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import httpx

from tests.certificates import Authority, put
from tests.languages.clients import PAGE_PORTS
from tests.replicas import Process

_FILE = json.loads((Path(__file__).parent / "questions.json").read_text())
FLAGS: dict[str, Any] = _FILE["flags"]
QUESTIONS: list[dict[str, Any]] = _FILE["questions"]

_ANSWER = ("value", "reason", "variant", "metadata")
Answer = dict[str, Any]
Ask = Callable[[str, str, Any, dict[str, Any]], Answer]
_READY_S = 30
SERVER: type[Process] = Process


class FlagFile:
    """The file that a server serves."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.toggle("on")

    def toggle(self, variant: str) -> None:
        """Change the default variant of `toggled`."""
        toggled = {**FLAGS["flags"]["toggled"], "defaultVariant": variant}
        self.path.write_text(json.dumps({**FLAGS, "flags": {**FLAGS["flags"], "toggled": toggled}}))


ORIGINS = ",".join(f"http://127.0.0.1:{port}" for port in PAGE_PORTS.values())
"""Of the pages in Chromium, which may call the servers."""
SETTINGS = {"FLAGSVC_CORS_ORIGINS": ORIGINS, "FLAGSVC_DRAIN_S": "0", "FLAGSVC_GRACE_S": "2"}


def server_of(file: FlagFile, *options: str) -> Process:
    """`flagsvc serve` of the file as it is; not started."""
    return SERVER("--store", f"file:{file.path}", *options, **SETTINGS)


def until_ready(server: Process) -> None:
    """Wait until the server answers for the flags of its file."""
    deadline = time.monotonic() + _READY_S
    while not _ready(f"http://127.0.0.1:{server.management_port}/readyz"):
        assert time.monotonic() < deadline, "the server is not ready"
        time.sleep(0.05)


def _ready(url: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(url, timeout=5).status_code == httpx.codes.OK
    return False


@contextmanager
def serving_questions(folder: Path, *options: str) -> Iterator[tuple[Process, FlagFile]]:
    file = FlagFile(folder / "flags.json")
    with server_of(file, *options) as server:
        until_ready(server)
        yield server, file


def tls_of(folder: Path, authority: Authority | None = None) -> tuple[tuple[str, ...], str]:
    """Return the options of a server with TLS on every port for callers, and the file of its CA.

    It sends its CA's certificate too, of which Chromium is given the hash.
    """
    authority = authority or Authority()
    signed = authority.sign()
    certificate, key = signed.put(folder)
    put(certificate, signed.pem + authority.own.pem)
    return ("--tls-cert", str(certificate), "--tls-key", str(key)), str(authority.put(folder))


def differences(client: str, ask: Ask, names: Collection[str] = ()) -> dict[str, str]:
    """Ask the questions, all or some; return the fields whose values are not as expected, by the question's name."""
    found = {}
    for question in QUESTIONS:
        expected = expected_of(question, client)
        if expected is None or (names and question["name"] not in names):
            continue
        answer = ask(question["kind"], question["key"], question["default"], question.get("context", {}))
        wrong = [
            f"{name} is {answer.get(name)!r}, not {value!r}"
            for name, value in expected.items()
            if not _same(name, answer.get(name), value)
        ]
        if wrong:
            found[question["name"]] = "; ".join(wrong)
    return found


def expected_of(question: dict[str, Any], client: str) -> Answer | None:
    """The answer that this client is to give; None when the question cannot be asked of it."""
    error = question.get("error")
    if error:
        answer = {"value": question["default"], "reason": "ERROR", "errorCode": error}
    else:
        answer = {"reason": "STATIC", "errorCode": None} | {
            name: question[name] for name in _ANSWER if name in question
        }
    for own in _FILE.get("own", []):
        if question["name"] in own["questions"] and any(fnmatch(client, pattern) for pattern in own["clients"]):
            if own["answer"] is None:
                return None
            answer |= own["answer"]
    return answer


def _same(name: str, found: Any, expected: Any) -> bool:
    """An unset variant or error code is empty in some languages."""
    if name in {"variant", "errorCode"}:
        return (found or None) == expected
    return bool(found == expected) and isinstance(found, bool) == isinstance(expected, bool)
