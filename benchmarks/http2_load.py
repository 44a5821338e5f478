"""An open-loop load generator on raw HTTP/2, so that one core can offer many times what a server answers.

Every request is prebuilt: its headers are encoded once, without HPACK's dynamic table, and only the stream's number
and the time that is left are put in. Calls are due at a steady rate, whatever the server does. Each connection is a
client: a call that is due while its connection has no stream free waits in the client, and its deadline runs.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Self

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
ACK = END_STREAM = 1
END_HEADERS = 4
HEADER_TABLE_SIZE, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 1, 3, 4
CANCEL = 8
MAX_WINDOW = 2**31 - 1
NO_LIMIT = 2**31 - 1
LATE, OK = "late", "0"
TICK_S = 0.001
HEALTH_EVERY_S = 0.02
HEALTH_DEADLINE_S = 5.0
CLOSING_S = 0.2


@dataclass
class Outcome:
    """What became of the calls that were due in one run."""

    seconds: float = 0.0
    offered: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    """Calls by gRPC status code as text; `late`: without an answer in time; `reset N`: ended by the server's frame."""
    unsent: int = 0
    """Of the late ones, those that got no stream in time."""
    waits_s: list[float] = field(default_factory=list)
    """Time from when a call was due to its answer, of those answered in time."""
    answered_s: list[float] = field(default_factory=list)
    """When each of those was answered, from the beginning of the run."""
    health_s: list[float] = field(default_factory=list)
    """How long each health check took."""
    lag_s: float = 0.0
    """The longest time that the generator itself was late."""
    reconnects: int = 0

    @property
    def in_time(self) -> float:
        """Calls answered in time per second."""
        return self.codes[OK] / self.seconds

    def share(self, code: str) -> float:
        """Share of the offered calls that ended with a code."""
        return self.codes[code] / max(1, self.offered)


class Request:
    """A prebuilt unary request: the frames, and where the stream's number and the remaining milliseconds belong."""

    def __init__(self, path: str, message: bytes, headers: Iterable[tuple[str, str]] = ()) -> None:
        """`headers`: further ones, such as a credential; names and values have at most 126 bytes."""
        block = b"\x83\x86" + _literal(4, path) + _literal(1, "flags") + _literal(31, "application/grpc")
        block += b"".join(_named(name, value) for name, value in headers)
        block += _named("te", "trailers") + _named("grpc-timeout", "0000m")
        body = b"\0" + struct.pack(">I", len(message)) + message
        self.frames = bytearray(_frame(HEADERS, END_HEADERS, 1, block) + _frame(DATA, END_STREAM, 1, body))
        self.first, self.second = 5, 9 + len(block) + 5
        self.timeout = 9 + len(block) - 5


def _literal(index: int, value: str) -> bytes:
    """Encode a header with a name of the static table: never indexed, not compressed."""
    name = bytes([index]) if index < 15 else bytes([15, index - 15])
    return name + bytes([len(value)]) + value.encode()


def _named(name: str, value: str) -> bytes:
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


class _Connection:
    """One client: its request, its streams, and the calls that wait for one."""

    def __init__(self, port: int, request: Request, poll: select.epoll) -> None:
        self._port, self._request, self._poll = port, request, poll
        self.waiting: deque[float] = deque()
        self._connect()

    def _connect(self) -> None:
        self.socket = socket.create_connection(("127.0.0.1", self._port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        settings = struct.pack(">HIHI", HEADER_TABLE_SIZE, 0, INITIAL_WINDOW_SIZE, MAX_WINDOW)
        grant = struct.pack(">I", MAX_WINDOW - 65_535)
        self.socket.sendall(PREFACE + _frame(SETTINGS, 0, 0, settings) + _frame(WINDOW_UPDATE, 0, 0, grant))
        self.socket.setblocking(False)
        self.number = self.socket.fileno()
        self._poll.register(self.number, select.EPOLLIN)
        self.streams: dict[int, float] = {}
        self.max_streams, self.closing, self._next = NO_LIMIT, False, 1
        self._out, self._in, self._received = bytearray(), b"", 0

    def send(self, now: float, deadline_s: float) -> None:
        """Open a stream for each call that waits, as long as there are streams."""
        request = self._request
        room = 0 if self.closing else self.max_streams - len(self.streams)
        frames, out = request.frames, self._out
        while room > 0 and self.waiting:
            due = self.waiting.popleft()
            struct.pack_into(">I", frames, request.first, self._next)
            struct.pack_into(">I", frames, request.second, self._next)
            frames[request.timeout : request.timeout + 4] = b"%04d" % max(1, int((due + deadline_s - now) * 1000))
            out += frames
            self.streams[self._next] = due
            self._next += 2
            room -= 1
        self.flush()

    def cancel(self, before: float) -> Iterator[None]:
        """Cancel the calls that were due before a moment, as a client does whose deadline passes."""
        while self.streams:
            stream, due = next(iter(self.streams.items()))
            if due >= before:
                break
            del self.streams[stream]
            self._out += _frame(RST_STREAM, 0, stream, struct.pack(">I", CANCEL))
            yield

    def flush(self) -> None:
        """Send what waits to be sent, as much as the socket takes."""
        if self._out:
            try:
                sent = self.socket.send(self._out)
            except BlockingIOError:
                return
            except OSError:
                self.closing = True
                return
            del self._out[:sent]

    def receive(self) -> Iterator[tuple[float, str]]:
        """Yield when each call was due that is answered now, and its outcome."""
        try:
            chunk = self.socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if chunk:
            yield from self._parse(self._in + chunk)
            self._received += len(chunk)
            if self._received > 1 << 28:
                self._out += _frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", self._received))
                self._received = 0
        if not chunk or (self.closing and not self.streams):
            yield from self._lost()

    def _parse(self, data: bytes) -> Iterator[tuple[float, str]]:
        at = 0
        while at + 9 <= len(data):
            kind, flags = data[at + 3], data[at + 4]
            end = at + 9 + (data[at] << 16 | data[at + 1] << 8 | data[at + 2])
            if end > len(data):
                break
            if kind == HEADERS and flags & END_STREAM:
                due = self.streams.pop(int.from_bytes(data[at + 5 : at + 9]), None)
                if due is not None:
                    yield due, _status(data[at + 9 : end])
            elif kind not in (HEADERS, DATA):
                yield from self._control(kind, flags, int.from_bytes(data[at + 5 : at + 9]), data[at + 9 : end])
            at = end
        self._in = data[at:]

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> Iterator[tuple[float, str]]:
        if kind == SETTINGS and not flags & ACK:
            for at in range(0, len(payload), 6):
                name, value = struct.unpack_from(">HI", payload, at)
                if name == MAX_CONCURRENT_STREAMS:
                    self.max_streams = value
            self._out += _frame(SETTINGS, ACK, 0, b"")
        elif kind == PING and not flags & ACK:
            self._out += _frame(PING, ACK, 0, payload)
        elif kind == RST_STREAM and (due := self.streams.pop(stream, None)) is not None:
            yield due, f"reset {int.from_bytes(payload)}"
        elif kind == GOAWAY:
            self.closing = True

    def _lost(self) -> Iterator[tuple[float, str]]:
        yield from ((due, "lost") for due in self.streams.values())
        self.close()
        try:
            self._connect()
        except OSError:
            self.closing = True

    def close(self) -> None:
        """Close the socket."""
        self._poll.unregister(self.number)
        self.socket.close()


def _status(block: bytes) -> str:
    """Return the code of trailers that came without HPACK's dynamic table and uncompressed."""
    at = block.find(b"grpc-status") + 11
    return block[at + 1 : at + 1 + block[at]].decode() if at > 10 else "none"


Client = tuple[int, Request]


class Load:
    """Clients, each of one connection: the port of its server, and its request; calls go to each in turn.

    `health`: the same for a health check, on a connection of its own; None for none.
    """

    def __init__(self, clients: Iterable[Client], health: Client | None = None) -> None:
        self._poll = select.epoll()
        self._clients = [_Connection(port, request, self._poll) for port, request in clients]
        self._prober = _Connection(*health, self._poll) if health is not None else None
        self._all = [*self._clients, *([self._prober] if self._prober is not None else [])]
        self._by_number = {client.number: client for client in self._all}

    def __enter__(self) -> Self:
        """Wait until the server has sent how many streams it takes."""
        until = time.perf_counter() + CLOSING_S
        while time.perf_counter() < until:
            for _ in self._answers(0.01):
                pass
            for client in self._all:
                client.flush()
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._all:
            client.close()
        self._poll.close()

    def steady(self, rate: float, seconds: float, deadline_s: float = 1.0) -> Outcome:
        """Offer calls at a rate, and wait until the last one is answered or late."""
        return self._run(seconds, deadline_s, rate=rate)

    def full(self, in_flight: int, seconds: float, deadline_s: float = 5.0) -> Outcome:
        """Keep calls in flight, a new one for each answer: the most that the server answers."""
        return self._run(seconds, deadline_s, in_flight=in_flight)

    def _run(self, seconds: float, deadline_s: float, *, rate: float = 0.0, in_flight: int = 0) -> Outcome:
        outcome, started = Outcome(seconds), time.perf_counter()
        last, ends, probe_at = started, started + seconds, started
        while True:
            now = time.perf_counter()
            outcome.lag_s, last = max(outcome.lag_s, now - last - TICK_S), now
            if now < ends:
                self._offer(outcome, [started + n / rate for n in self._due(outcome, now - started, rate)])
                self._offer(outcome, [now] * (in_flight - self._open() if in_flight else 0))
                if self._prober is not None and now >= probe_at and not self._prober.streams:
                    probe_at = now + HEALTH_EVERY_S
                    self._prober.waiting.append(now)
                    self._prober.send(now, HEALTH_DEADLINE_S)
            elif not self._open() or now > ends + deadline_s + 1:
                break
            self._send(outcome, now, deadline_s)
            self._receive(outcome, started, deadline_s)
        if in_flight:
            outcome.seconds = time.perf_counter() - started
        outcome.codes[LATE] += self._open()
        return outcome

    @staticmethod
    def _due(outcome: Outcome, passed_s: float, rate: float) -> range:
        return range(outcome.offered, int(passed_s * rate))

    def _open(self) -> int:
        return sum(len(client.streams) + len(client.waiting) for client in self._clients)

    def _offer(self, outcome: Outcome, dues: list[float]) -> None:
        for due in dues:
            self._clients[outcome.offered % len(self._clients)].waiting.append(due)
            outcome.offered += 1

    def _send(self, outcome: Outcome, now: float, deadline_s: float) -> None:
        for client in self._clients:
            while client.waiting and client.waiting[0] < now - deadline_s:
                client.waiting.popleft()
                outcome.codes[LATE] += 1
                outcome.unsent += 1
            outcome.codes[LATE] += sum(1 for _ in client.cancel(now - deadline_s))
            client.send(now, deadline_s)

    def _receive(self, outcome: Outcome, started: float, deadline_s: float) -> None:
        for client, due, code in self._answers(TICK_S):
            now = time.perf_counter()
            waited = now - due
            if client is self._prober:
                outcome.health_s.append(waited if code == OK else float("inf"))
            elif waited > deadline_s:
                outcome.codes[LATE] += 1
            else:
                outcome.codes[code] += 1
                if code == OK:
                    outcome.waits_s.append(waited)
                    outcome.answered_s.append(now - started)

    def _answers(self, timeout: float) -> Iterator[tuple[_Connection, float, str]]:
        for number, _ in self._poll.poll(timeout):
            client = self._by_number[number]
            for due, code in client.receive():
                yield client, due, code
            if client.number != number:
                del self._by_number[number]
            self._by_number[client.number] = client
