"""MongoDB and Redis over TLS, with the URLs that docs/tls.md names."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.certificates import Authority, Signed, put
from tests.replicas import replica, until, until_serving
from tests.servers import Mongod, RedisServer

AUTHORITY = Authority()


def combined(signed: Signed, path: Path) -> Path:
    """Write a certificate and its key into one file, as MongoDB has them."""
    put(path, signed.pem + signed.key_pem)
    return path


class TlsMongod(Mongod):
    """A mongod that takes TLS connections alone, from clients with a certificate."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.ca, self.own = AUTHORITY.put(folder), combined(AUTHORITY.sign("mongod"), folder / "mongod.pem")

    def database_url(self, name: str) -> str:
        return f"{super().database_url(name)}&tls=true&tlsCAFile={self.ca}&tlsCertificateKeyFile={self.own}"

    def _command(self) -> list[str]:
        options = ["--tlsMode", "requireTLS", "--tlsCAFile", str(self.ca), "--tlsCertificateKeyFile", str(self.own)]
        return [*super()._command(), *options]

    def _direct_url(self) -> str:
        return f"{super()._direct_url()}&tls=true&tlsCAFile={self.ca}&tlsCertificateKeyFile={self.own}"


@asynccontextmanager
async def tls_before(port: int, folder: Path, *, mutual: bool) -> AsyncIterator[int]:
    """Stand with TLS before a server that has none: redis-server's wheel is built without."""
    context = AUTHORITY.sign("redis").context(folder, "redis")
    if mutual:
        context.load_verify_locations(cadata=AUTHORITY.own.pem.decode())
        context.verify_mode = ssl.CERT_REQUIRED

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

    async with await asyncio.start_server(joined, "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.mongod
async def test_flags_travel_between_replicas_with_tls_everywhere(tmp_path: Path) -> None:
    own, key = AUTHORITY.sign("flagsvc").put(tmp_path, "own")
    with TlsMongod(tmp_path) as mongod, RedisServer() as redis_server:
        async with tls_before(redis_server.port, tmp_path, mutual=True) as port:
            files = f"ssl_ca_certs={tmp_path}/ca.crt&ssl_certfile={own}&ssl_keyfile={key}"
            urls = {"store_url": mongod.database_url("flags"), "cache_url": f"rediss://127.0.0.1:{port}/0?{files}"}
            async with replica(**urls) as (writer, _), replica(**urls) as (reader, _):
                for client in (writer, reader):
                    await until_serving(client, "cache")
                    await until_serving(client, "changes")
                await writer.create("a", status=1)
                deadline = time.monotonic() + 10
                while not (await reader.evaluate("a")).enabled:
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.01)


async def test_an_unknown_ca_is_named(tmp_path: Path) -> None:
    with RedisServer() as redis_server:
        async with tls_before(redis_server.port, tmp_path, mutual=False) as port:
            stranger = Authority("another").put(tmp_path)
            store = f"sqlite:///{tmp_path}/flags.db"
            with capture_logs() as logs:
                async with replica(store_url=store, cache_url=f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={stranger}"):
                    await until(lambda: any("signed by an unknown CA" in str(line.get("cause", "")) for line in logs))
