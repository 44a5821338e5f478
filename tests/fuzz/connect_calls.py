"""Calls over Connect and gRPC-Web, of every method that the HTTP/1.1 side of a port serves."""

from __future__ import annotations

import gzip
import json
import re

from google.protobuf.json_format import Error as Unencodable
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from flagsvc.api.connect.wires import WIRES, framed
from tests.fuzz.calling import CODES, Answer, Call
from tests.fuzz.grpc_calls import Method
from tests.fuzz.http_calls import HttpCalls
from tests.fuzz.messages import Messages
from tests.fuzz.odd import Odd, changed

OVER_HTTP = " over HTTP"
_SERVED = ("/flagsvc.v1.", "/flagd.evaluation.", "/schema.v1.")
_PORTS = ("front_port", "front_port", "front_port", "ofrep_port")
_STATUS = re.compile(rb"grpc-status: (\d+)")
"""In the trailers of gRPC-Web, which are the end of the body."""
_ERROR = re.compile(rb'\{"code":"(\w+)"')
"""In the body of a Connect error, and at the end of a stream."""


class ConnectCalls:
    """Makes requests; `http` sends them."""

    def __init__(self, methods: dict[str, Method], http: HttpCalls, odd: Odd) -> None:
        self._http, self._odd, self._random, self._messages = http, odd, odd.random, Messages(odd)
        self._methods = {path + OVER_HTTP: each for path, each in methods.items() if path.startswith(_SERVED)}
        self._requests: dict[str, type[Message]] = {
            name: GetMessageClass(each.descriptor.input_type) for name, each in self._methods.items()
        }

    @property
    def names(self) -> list[str]:
        """What is called, by its name in the table."""
        return list(self._methods)

    def make(self, name: str, corpus: list[bytes]) -> Call:
        """Return a call, a changed one in a third of the cases."""
        random, odd, method = self._random, self._odd, self._methods[name]
        data = self._messages.of(method.descriptor.input_type)
        suited = [wire for wire in WIRES.values() if wire.serves(streams=method.streams)]
        wire = random.choice(list(WIRES.values()) if odd.is_odd else suited)
        body = self._in_json(name, data) if wire.is_json else data
        headers = [("content-type", wire.content_type if not odd.is_odd else odd.text()[:99])]
        if random.random() < 0.1:
            headers.append((wire.timeout_header, random.choice(("1", "100", "100m", "1S", "-1", "99999999999", "x"))))
        is_small = random.random() < 0.1
        if is_small:
            body = gzip.compress(body)
            headers.append((wire.coding_header, random.choice(("gzip", "gzip", "gzip", "br", "identity"))))
        if wire.is_framed:
            body = framed(1 if is_small else random.choice((0, 0, 0, 255)) if odd.is_odd else 0, body)
        verb = "POST" if not odd.is_odd else random.choice(("GET", "PUT", "OPTIONS", "HEAD"))
        data = self._http.request(verb, method.path, body, headers)
        if random.random() < 0.35:
            data = changed(data, corpus, random)
        return Call(name, [data], timeout=0.05 if method.streams else 1.0, port=random.choice(_PORTS))

    def _in_json(self, name: str, data: bytes) -> bytes:
        """Return a message in JSON; where the bytes are none, any JSON."""
        try:
            return MessageToJson(self._requests[name].FromString(data), indent=None).encode("utf-8", "replace")
        except (DecodeError, Unencodable, ValueError, RecursionError):
            return json.dumps(self._odd.json()).encode("utf-8", "replace")

    async def send(self, call: Call) -> Answer:
        """Send a call, and return what it was answered: with gRPC's status where the answer has one."""
        answer = await self._http.send(call)
        text = answer.error or answer.message or b""
        if found := _STATUS.search(text):
            code = CODES.get(int(found[1]), "?")
            return answer if code == "OK" else Answer(code, text)
        if found := _ERROR.search(text[-20_000:]):
            return Answer({"canceled": "CANCELLED"}.get(found[1].decode(), found[1].decode().upper()), text)
        return answer
