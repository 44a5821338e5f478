"""Clients that ping all the time and send nothing else, to see whether the server disconnects them."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Self

import grpc

from flagsvc.generated.flagd.evaluation.v2 import evaluation_pb2 as evaluation_pb
from flagsvc.generated.flagd.evaluation.v2 import evaluation_pb2_grpc as evaluation_grpc
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb
from flagsvc.generated.flagsvc.v1 import flag_service_pb2_grpc as pb_grpc

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS, _PING, _GOAWAY, _ACK = 4, 6, 7, 1


class BarePinger:
    """A connection that speaks HTTP/2 and has no call on it: pings 20 times a second, and counts what comes back."""

    def __init__(self, address: tuple[str, int], every_s: float = 0.05) -> None:
        self.sent = self.answered = 0
        self.sent_away = self.cut_off = False
        self._address, self._every_s = address, every_s
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._send, self._read)]

    def __enter__(self) -> Self:
        self._socket = socket.create_connection(self._address, 5)
        self._socket.settimeout(None)
        self._socket.sendall(_PREFACE + _frame(_SETTINGS))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        self._socket.close()

    def _send(self) -> None:
        with contextlib.suppress(OSError):
            while not self._ending.wait(self._every_s):
                self.sent += 1
                self._socket.sendall(_frame(_PING, payload=self.sent.to_bytes(8, "big")))

    def _read(self) -> None:
        with contextlib.suppress(OSError), self._socket.makefile("rb") as stream:
            while len(head := stream.read(9)) == 9:
                stream.read(int.from_bytes(head[:3], "big"))
                kind, flags = head[3], head[4]
                if kind == _SETTINGS and not flags & _ACK:
                    self._socket.sendall(_frame(_SETTINGS, flags=_ACK))
                self.answered += kind == _PING and bool(flags & _ACK)
                self.sent_away = self.sent_away or kind == _GOAWAY
        self.cut_off = not self._ending.is_set()


def _frame(kind: int, *, flags: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + bytes(4) + payload


class PingingClient:
    """A gRPC client with keep-alive each second, a watch and a flagd event stream, neither of which has changes."""

    def __init__(self, address: str) -> None:
        options = [
            ("grpc.keepalive_time_ms", 1_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        self.ended: list[str] = []
        self.states: list[grpc.ChannelConnectivity] = []
        self.channel = grpc.insecure_channel(address, options=options)
        self.channel.subscribe(self.states.append)
        watch = pb_grpc.FlagServiceStub(self.channel).WatchFlags(pb.WatchFlagsRequest(), wait_for_ready=True)
        events = evaluation_grpc.ServiceStub(self.channel).EventStream(evaluation_pb.EventStreamRequest())
        self._calls = (watch, events)
        self._threads = [threading.Thread(target=self._read, args=(call,), daemon=True) for call in self._calls]
        for thread in self._threads:
            thread.start()

    @property
    def lost(self) -> bool:
        """Whether the connection was ever lost."""
        ready = grpc.ChannelConnectivity.READY
        return ready not in self.states or set(self.states[self.states.index(ready) :]) != {ready}

    def _read(self, call: grpc.Call) -> None:
        try:
            for _ in call:
                pass
            self.ended.append("OK")
        except grpc.RpcError:
            if call.code() is not grpc.StatusCode.CANCELLED:
                self.ended.append(f"{call.code()} {call.details()}")

    def close(self) -> None:
        for call in self._calls:
            call.cancel()
        # Beside channels of asyncio in the same process, gRPC may never hear that a call has ended, and `close` waits.
        self._threads.append(threading.Thread(target=self.channel.close, daemon=True))
        self._threads[-1].start()
        for thread in self._threads:
            thread.join(5)


class Pinging:
    """Both kinds of client, and the time at which they began."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.since = time.monotonic()
        self.bare = BarePinger(address)
        self.client = PingingClient(f"{address[0]}:{address[1]}")

    def __enter__(self) -> Self:
        self.bare.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.bare.__exit__()
