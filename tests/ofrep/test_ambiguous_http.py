"""HTTP requests that two programs in a row could read differently are refused, on both HTTP ports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.ofrep.asking import FLAGS_PATH, Asked, asking
from tests.ofrep.conftest import FEW

HEAD = f"POST {FLAGS_PATH}/switch HTTP/1.1\r\nHost: x\r\n".encode()
CHUNKED = b"Transfer-Encoding: chunked\r\n"
REFUSED = {
    "length and coding": HEAD + b"Content-Length: 5\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
    "coding and length": HEAD + CHUNKED + b"content-length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a list of lengths": HEAD + b"Content-Length: 2, 3\r\n\r\n{}",
    "a length with a sign": HEAD + b"Content-Length: +2\r\n\r\n{}",
    "two codings": HEAD + CHUNKED + CHUNKED + b"\r\n0\r\n\r\n",
    "another coding": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "an obscure coding": HEAD + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "a coding in HTTP/1.0": HEAD.replace(b"1.1", b"1.0") + CHUNKED + b"\r\n0\r\n\r\n",
    "a folded line": HEAD + b"X-A: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "a folded first line": HEAD.replace(b"\r\nHost", b"\r\n Host") + b"\r\n",
    "a carriage return alone": HEAD + b"X-A: a\rX-B: b\r\nContent-Length: 0\r\n\r\n",
    "a control character": HEAD + b"X-A: a\x1b[2J\r\nContent-Length: 0\r\n\r\n",
    "NUL": HEAD + b"X-A: a\0b\r\nContent-Length: 0\r\n\r\n",
    "DEL": HEAD + b"X-A: a\x7f\r\nContent-Length: 0\r\n\r\n",
    "white space before the colon": HEAD + b"Content-Length : 0\r\n\r\n",
    "no name": HEAD + b": 0\r\n\r\n",
    "two hosts": HEAD + b"Host: y\r\nContent-Length: 0\r\n\r\n",
    "no host": HEAD.replace(b"Host: x\r\n", b"") + b"Content-Length: 0\r\n\r\n",
    "another authority": HEAD.replace(b"POST ", b"POST http://evil") + b"Content-Length: 0\r\n\r\n",
    "an authority only": b"CONNECT evil:80 HTTP/1.1\r\nHost: evil:80\r\n\r\n",
    "a target with a space": HEAD.replace(b"/switch", b"/swi tch") + b"\r\n",
    "a target with raw UTF-8": HEAD.replace(b"/switch", b"/\xc3\xbc") + b"\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
}


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Asked]:
    path: Path = tmp_path_factory.mktemp("ambiguous") / "flags.db"
    async with asking(path, FEW, management_port=0) as asked:
        yield asked


async def answer(port: int, sent: bytes) -> bytes:
    """Send a request and one more behind it; return all that is answered until the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent + b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


@pytest.mark.parametrize("port", ["ofrep_port", "management_port"])
@pytest.mark.parametrize("sent", REFUSED.values(), ids=REFUSED)
async def test_an_ambiguous_request_is_refused_and_nothing_after_it_is_read(
    server: Asked, port: str, sent: bytes
) -> None:
    found = await answer(getattr(server.server, port), sent)
    assert found.startswith(b"HTTP/1.1 400 ")
    assert found.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in found.lower()


ACCEPTED = {
    "a length": HEAD + b"Content-Length: 2\r\n\r\n{}",
    "chunks": HEAD + CHUNKED + b"\r\n2;x=y\r\n{}\r\n0\r\n\r\n",
    "the same length twice": HEAD + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "obscure but plain": HEAD + b"X-A:\t\xfc \t,;\r\nContent-Length: 2\r\n\r\n{}",
    "a body with all that a head may not have": HEAD + b'Content-Length: 19\r\n\r\n{"a":\n "\x7f\r"}' + b" " * 7,
}  # fmt: skip


@pytest.mark.parametrize("sent", ACCEPTED.values(), ids=ACCEPTED)
async def test_what_can_be_read_only_one_way_is_served(server: Asked, sent: bytes) -> None:
    found = await answer(server.server.ofrep_port, sent)
    first, second = found.split(b"HTTP/1.1 ")[1:]
    assert not first.startswith(b"400 Bad Request\r\ncontent-type: text/plain")
    assert second.startswith(b"404")


async def test_a_head_in_small_pieces_is_refused_as_well(server: Asked) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.server.ofrep_port)
    for byte in HEAD + b"X-A: a\r\n ":
        writer.write(bytes([byte]))
        await asyncio.sleep(0)
    found = await asyncio.wait_for(reader.read(), 10)
    assert found.startswith(b"HTTP/1.1 400 ")
    writer.close()


async def test_a_body_that_goes_wrong_after_its_response_ends_the_connection_and_nothing_else(server: Asked) -> None:
    loop, errors = asyncio.get_running_loop(), list[object]()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, found: errors.append(found))
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.server.ofrep_port)
        writer.write(HEAD.replace(FLAGS_PATH.encode(), b"/nowhere") + CHUNKED + b"\r\n2\r\n{}\r\n")
        assert b"404" in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"2\r\n{}in")
        await asyncio.wait_for(reader.read(), 30)
        writer.close()
    finally:
        loop.set_exception_handler(before)
    assert not errors
