"""Requests that no client library sends: what a forged frame or head reaches, and what of it gets into the log."""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import AsyncIterator

import pytest

from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.server import Server
from flagsvc.telemetry import configure_logging, keep_headers_out_of_logs
from tests.access.callers import guarded, made, stored

GET, EVALUATE = "/flagsvc.v1.FlagService/GetFlag", "/flagsvc.v1.FlagService/EvaluateFlag"
BODY = b'{"flagKey": "a", "flagSet": "mine"}'
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, DATA, SETTINGS, END_HEADERS, END_STREAM = 1, 0, 4, 4, 1
Pairs = list[tuple[bytes, bytes]]


class Raw:
    """A server, and tokens for the flag set `mine`: one that reads, one that evaluates."""

    def __init__(self, server: Server, reads: str, evaluates: str) -> None:
        self.server, self.reads, self.evaluates = server, reads, evaluates

    async def answer(self, data: bytes, port: int = 0) -> bytes:
        """Send bytes over a connection of its own, and return what comes back until it ends or an answer is there."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port or self.server.port)
        writer.write(data)
        found = b""
        async with asyncio.timeout(10):
            while not (found.startswith(b"HTTP") and b"\r\n\r\n" in found) and b"grpc-status" not in found:
                if not (more := await reader.read(65_536)):
                    break
                found += more
        writer.close()
        return found


@pytest.fixture(scope="module")
async def raw(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Raw]:
    store_url = f"sqlite:///{tmp_path_factory.mktemp('raw')}/flags.db"
    (reads, reads_text), (evaluates, evaluates_text) = made("read", "mine"), made("evaluate", "mine")
    await stored(store_url, reads, evaluates)
    async with guarded(store_url, sync_port=0, ofrep_port=0) as (_, server):
        yield Raw(server, reads_text, evaluates_text)


def head(path: str, headers: str, method: str = "POST", body: bytes = BODY) -> bytes:
    lines = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{headers}"
    return f"{lines}Content-Length: {len(body)}\r\n\r\n".encode("latin-1") + body


def chunked(headers: str, trailers: str) -> bytes:
    lines = f"POST {GET} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{headers}"
    start = f"{lines}Transfer-Encoding: chunked\r\n\r\n{len(BODY):x}\r\n".encode()
    return start + BODY + f"\r\n0\r\n{trailers}\r\n".encode()


READS, EVALUATES = "Authorization: Bearer READS\r\n", "Authorization: Bearer EVALUATES\r\n"
HEADS = {
    "a reader's": (head(GET, READS), 404),
    "the scheme in another case": (head(GET, READS.replace("Bearer", "bEARER")), 404),
    "a credential in a trailer": (chunked("Trailer: authorization\r\n", READS), 401),
    "a name with an underscore": (head(GET, "x_api_key: READS\r\n"), 401),
    "a cookie": (head(GET, "Cookie: authorization=Bearer READS\r\n"), 401),
    "a header that the connection drops": (head(GET, f"Connection: authorization\r\n{EVALUATES}"), 403),
    "two credentials": (head(GET, READS + READS), 401),
    "two credentials in one": (head(GET, "Authorization: Bearer READS, Bearer READS\r\n"), 401),
    "bytes that are no text": (head(GET, "Authorization: Bearer READS\xff\r\n"), 401),
    "a folded header": (head(GET, "Authorization: Bearer\r\n READS\r\n"), 400),
    "white space before the colon": (head(GET, "Authorization : Bearer READS\r\n"), 400),
    "two lengths": (head(GET, READS + "Content-Length: 5\r\n"), 400),
    "a length and chunks": (chunked(READS + "Content-Length: 5\r\n", ""), 400),
    "a target with a scheme": (head(f"http://localhost{GET}", READS), 400),
    "an encoded slash": (head(GET.replace("/GetFlag", "%2fGetFlag"), EVALUATES), 403),
    "an encoded letter": (head(GET.replace("GetFlag", "%47etFlag"), EVALUATES), 403),
    "a query": (head(f"{GET}?x={EVALUATE}", EVALUATES), 403),
    "dots": (head(EVALUATE.replace("EvaluateFlag", "x/../GetFlag"), READS), 404),
    "another method's name beside": (head(EVALUATE, f"X-HTTP-Method-Override: {GET}\r\n{EVALUATES}"), 200),
}


@pytest.mark.parametrize("name", HEADS)
async def test_what_a_head_of_http1_reaches(name: str, raw: Raw) -> None:
    data, status = HEADS[name]
    data = data.replace(b"READS", raw.reads.encode()).replace(b"EVALUATES", raw.evaluates.encode())
    found = await raw.answer(data)
    assert found.split(b" ", 2)[1] == str(status).encode(), found
    assert (b"not_found" in found) is (status == 404 and name != "dots"), found


async def test_the_second_of_two_requests_has_no_right_of_the_first(raw: Raw) -> None:
    first = head(GET, f"Authorization: Bearer {raw.reads}\r\n")
    reader, writer = await asyncio.open_connection("127.0.0.1", raw.server.port)
    writer.write(first + head(GET, "Connection: close\r\n"))
    async with asyncio.timeout(10):
        found = await reader.read()
    writer.close()
    assert [part.split(b" ", 2)[0] for part in found.split(b"HTTP/1.1 ")[1:]] == [b"404", b"401"]


def literal(text: bytes) -> bytes:
    """A text of HPACK (RFC 7541, 5.2), shorter than 255 bytes."""
    return bytes([len(text)]) + text if len(text) < 127 else bytes([127, len(text) - 127]) + text


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def call(pairs: Pairs, trailers: Pairs = [], pseudo: Pairs | None = None) -> bytes:  # noqa: B006  not changed
    """A call of GetFlag as a connection of HTTP/2."""
    first = pseudo or [(b":path", GET.encode())]
    fields = [(b":method", b"POST"), (b":scheme", b"http"), *first, (b":authority", b"x")]
    fields += [(b"content-type", b"application/grpc"), (b"te", b"trailers"), *pairs]
    message = pb.GetFlagRequest(flag_key="a", flag_set="mine").SerializeToString()
    block, last = (b"".join(b"\0" + literal(n) + literal(v) for n, v in each) for each in (fields, trailers))
    data = b"\0" + struct.pack(">I", len(message)) + message
    body = frame(DATA, 0 if trailers else END_STREAM, 1, data)
    end = frame(HEADERS, END_HEADERS | END_STREAM, 1, last) if trailers else b""
    return PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_HEADERS, 1, block) + body + end


@pytest.mark.parametrize("port", ["port", "sync_port"])
async def test_what_frames_of_http2_reach(port: str, raw: Raw, caplog: pytest.LogCaptureFixture) -> None:
    keep_headers_out_of_logs()
    reads, evaluates = (b"Bearer " + text.encode() for text in (raw.reads, raw.evaluates))
    name, path, needs = b"authorization", (b":path", EVALUATE.encode()), b"needs a credential"
    calls: dict[str, tuple[bytes, bytes]] = {
        "a reader's": (call([(name, reads)]), b"not found"),
        "a binary header": (call([(b"authorization-bin", b"QmVhcmVy")]), needs),
        "a credential in a trailer": (call([], trailers=[(name, reads)]), needs),
        "two": (call([(name, reads), (name, reads)]), b"more than one credential"),
        "two in one": (call([(name, reads + b", " + reads)]), b"has not the form"),
        "NUL at the end": (call([(name, reads + b"\0")]), b"has not the form"),
        "a second path": (
            call([(name, evaluates)], pseudo=[path, (b":path", GET.encode())]),
            b"needs the role read",
        ),
        "a path behind the headers": (
            call([(name, evaluates), (b":path", GET.encode())], pseudo=[path]),
            b"needs the role read",
        ),
        "a slash more": (call([(name, reads)], pseudo=[(b":path", b"/" + GET.encode())]), b"Method not found"),
        "an encoded slash": (
            call([(name, reads)], pseudo=[(b":path", GET.replace("/Get", "%2fGet").encode())]),
            b"Method not found",
        ),
        "bytes that are no text": (call([(name, reads + b"\xff")]), b"has not the form"),
    }
    with caplog.at_level(logging.DEBUG):
        for what, (data, words) in calls.items():
            found = await raw.answer(data, getattr(raw.server, port))
            assert words in found, (what, found)
    assert raw.reads not in caplog.text


def test_the_log_of_a_server_has_no_header(monkeypatch: pytest.MonkeyPatch) -> None:
    library = logging.getLogger("grpc._cython.cygrpc")
    monkeypatch.setattr(library, "filters", [])
    monkeypatch.setattr("structlog.configure", lambda **_: None)
    configure_logging("info", "json")
    texts = ("Invalid encoding on %s", "Unexpected [%s] raised by servicer method [%s]")
    records = [logging.LogRecord(library.name, logging.ERROR, "", 1, text, (), None) for text in texts]
    assert [bool(library.filter(record)) for record in records] == [False, True]
