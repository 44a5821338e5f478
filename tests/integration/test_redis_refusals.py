"""A Redis that answers and refuses: it counts as down until something that writes and publishes works."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from structlog.testing import capture_logs

from flagsvc.adapters.redis import breaker as breaker_module
from flagsvc.adapters.redis.cache import RedisCache
from flagsvc.adapters.redis.causes import REFUSES, UNAVAILABLE, redis_cause
from flagsvc.core.model import Flag, FlagId
from flagsvc.ports import Announced, Entry, Heartbeat, Subscribed
from tests.certificates import Authority
from tests.replicas import until
from tests.servers import RedisServer, free_port
from tests.stores import STORE

pytestmark = pytest.mark.xdist_group("redis_refusals")
A = Entry.of(Flag(key="a", revision=1))
AUTHORITY = Authority()
USERS = {
    "works": "+@all -@dangerous ~* &*",
    "nopublish": "+@all -publish ~* &*",
    "noeval": "+@all -eval ~* &*",
    "noscript": "+@all -script -evalsha ~* &*",
    "nozset": "+@all -zadd ~* &*",
    "nokeys": "+@all ~flagsvc:* &*",
    "noentries": "+@all ~flagsvc:* &*",
    "nochannel": "+@all ~* resetchannels",
    "nosubscribe": "+@all -subscribe ~* &*",
}


@pytest.fixture(autouse=True)
def quick_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probe at once: these tests count probes, and wait for none."""
    monkeypatch.setattr(breaker_module, "PROBE_EVERY_S", 0.01)
    monkeypatch.setattr(breaker_module, "MAX_REFUSED_S", 0.02)
    monkeypatch.setattr(breaker_module, "MAX_UNREACHABLE_S", 0.02)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        with redis.Redis.from_url(server.url) as direct:
            for name, rules in USERS.items():
                direct.execute_command("ACL", "SETUSER", name, "on", ">p", *rules.split())
        yield server


def url_of(server: RedisServer, user: str = "") -> str:
    return server.url.replace("//", f"//{user}:p@") if user else server.url


@asynccontextmanager
async def cache_on(url: str) -> AsyncIterator[RedisCache]:
    cache = RedisCache(url, timeout_s=1.0, identity=STORE)
    await cache.open()
    try:
        yield cache
    finally:
        await cache.close()


async def write(cache: RedisCache) -> bool:
    """What a writer does."""
    return await cache.put([A], time.monotonic()) and await cache.announce(Announced(A))


async def use_until_refused(cache: RedisCache) -> None:
    """Make each kind of call; not each needs what is refused."""
    async with asyncio.timeout(10):
        while cache.available:
            await write(cache)
            await cache.send_heartbeat(Heartbeat(replica="r", number=1, revisions={}), 5)
            await cache.fetch(A.id, 5)


FAULTS: dict[str, tuple[tuple[Any, ...], tuple[Any, ...], str]] = {
    "read-only replica": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "READONLY"),
    "memory full": (("CONFIG SET", "maxmemory", 1), ("CONFIG SET", "maxmemory", 0), "OOM"),
    "too few replicas": (
        ("CONFIG SET", "min-replicas-to-write", 1),
        ("CONFIG SET", "min-replicas-to-write", 0),
        "NOREPLICAS",
    ),
    **{
        user: (
            (),
            ("ACL", "SETUSER", user, "on", "+@all", "~*", "&*"),
            words,
        )
        for user, words in {
            "nopublish": "NOPERM this user has no permissions to run the 'publish' command",
            "noeval": "NOPERM this user has no permissions to run the 'eval' command",
            "noscript": "NOPERM this user has no permissions to run the 'evalsha' command",
            "nozset": "The user executing the script can't run this command",
            "nokeys": "NOPERM this user has no permissions to access one of the keys",
            "nochannel": "NOPERM this user has no permissions to access one of the channels",
        }.items()
    },
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_redis_that_refuses_is_down_until_a_write_and_a_message_work(server: RedisServer, fault: str) -> None:
    begin, end, words = FAULTS[fault]
    url = url_of(server, fault if fault in USERS else "")
    with redis.Redis.from_url(server.url) as direct, capture_logs() as logs:
        if begin:
            direct.execute_command(*begin)
        try:
            async with cache_on(url) as cache:
                await use_until_refused(cache)
                await until(lambda: cache._redis.breaker._failures > 10)
                assert cache._redis.breaker.opened == 1, "no probe found it to work"
                assert not await write(cache), "the writer is not led to believe that others know"
                [problem] = cache.problems()
                assert problem.name == REFUSES
                assert words in problem.detail
                assert problem.cure
                warnings = [line for line in logs if line["log_level"] == "warning"]
                assert 1 <= len(warnings) <= 2, "a call and a probe may be refused in different words"
                assert any(words in line["cause"] for line in warnings)
                direct.execute_command(*end)
                await until(lambda: cache.available)
                assert await write(cache)
                assert cache._redis.breaker.opened == 1
        finally:
            direct.execute_command(*end)


async def test_what_no_caller_has_used_yet_is_tried_at_the_start(server: RedisServer) -> None:
    async with cache_on(url_of(server, "noentries")) as cache:
        await until(lambda: bool(cache.problems()))
        assert not cache.available
        assert "no permissions to access one of the keys" in cache.problems()[0].detail


async def test_a_probe_leaves_nothing_behind_and_disturbs_no_replica(server: RedisServer) -> None:
    with redis.Redis.from_url(server.url) as direct, capture_logs() as logs:
        direct.flushall()
        async with cache_on(url_of(server, "works")) as cache:
            events: list[object] = []

            async def listen() -> None:
                async for event in cache.events():
                    events.append(event)  # noqa: PERF401  it never ends

            listening = asyncio.create_task(listen())
            await until(lambda: bool(events))
            await cache._probe.try_use()
            assert direct.keys() == []
            assert await cache.announce(Announced(A))
            await until(lambda: len(events) > 1)
            listening.cancel()
    assert [type(event) for event in events] == [Subscribed, Announced]
    assert [line["event"] for line in logs] == ["cache_memory_unknown"]


async def test_a_user_without_info_works_also_after_an_outage(server: RedisServer) -> None:
    """INFO is for metrics only."""
    with capture_logs() as logs:
        async with cache_on(url_of(server, "works")) as cache:
            assert await write(cache)
            cache._redis.breaker.failed(redis_cause(TimeoutError()))
            assert not await write(cache)
            await until(lambda: cache.available)
            assert await write(cache)
            assert cache.problems() == ()
            assert set(cache.state()) == {"errors_total"}
    assert {line["event"] for line in logs} == {"cache_memory_unknown", "cache_unavailable"}
    assert len([line for line in logs if line["event"] == "cache_memory_unknown"]) <= 2, "once for each connection"


async def test_a_channel_that_cannot_be_subscribed_to_is_reported(server: RedisServer) -> None:
    with capture_logs() as logs:
        async with cache_on(url_of(server, "nosubscribe")) as cache:
            listening = asyncio.create_task(anext(cache.events()))
            await until(lambda: bool(cache.problems()))
            [problem] = cache.problems()
            assert problem.name == "cache_subscription_refused"
            assert "'subscribe' command" in problem.detail
            with redis.Redis.from_url(server.url) as direct:
                direct.execute_command("ACL", "SETUSER", "nosubscribe", "+subscribe")
            assert isinstance(await listening, Subscribed)
            assert cache.problems() == ()
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == ["cache_subscription_refused"]


async def test_a_cluster_is_refused_with_the_cure() -> None:
    class Cluster(RedisServer):
        def _command(self) -> list[str]:
            return [*super()._command(), "--cluster-enabled", "yes"]

    with Cluster() as server, redis.Redis.from_url(server.url) as direct:
        direct.execute_command("CLUSTER", "ADDSLOTS", *range(16_384))
        await until(lambda: b"cluster_state:ok" in direct.execute_command("CLUSTER", "INFO"))
        async with cache_on(server.url) as cache:
            await use_until_refused(cache)
            await until(lambda: cache._redis.breaker._failures > 3)
            [problem] = cache.problems()
            assert "CROSSSLOT" in problem.detail
            assert problem.cure == "use a Redis that is not in cluster mode"


@contextlib.contextmanager
def tls_listener(folder: Path) -> Iterator[int]:
    """A port that speaks TLS with a certificate that nobody knows, as far as the handshake."""
    context = AUTHORITY.own.context(folder)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        async def serve() -> None:
            server = await asyncio.start_server(lambda _r, w: w.close(), sock=listener.dup(), ssl=context)
            async with server:
                await server.serve_forever()

        task = asyncio.get_running_loop().create_task(serve())
        try:
            yield listener.getsockname()[1]
        finally:
            task.cancel()


CONNECTIONS: dict[str, tuple[Callable[[RedisServer, int], str], str]] = {
    "wrong password": (lambda s, _: s.url.replace("//", "//works:wrong@"), "WRONGPASS"),
    "nothing listens": (lambda _s, _p: f"redis://127.0.0.1:{free_port()}/0", "the connection is refused"),
    "no such host": (lambda _s, _p: "redis://no-such-host.invalid:6379/0", "the host name cannot be resolved"),
    "TLS to a server without": (
        lambda s, _: s.url.replace("redis:", "rediss:"),
        "does not answer in time",
    ),
    "no TLS to a server with": (lambda _, p: f"redis://127.0.0.1:{p}/0", "closes the connection"),
    "unknown CA": (lambda _, p: f"rediss://127.0.0.1:{p}/0", "self-signed and its CA is not known"),
    "another host": (
        lambda _, p: f"rediss://127.1:{p}/0?ssl_ca_certs=CA",
        "the server's certificate is for another host",
    ),
    "no such CA file": (
        lambda _, p: f"rediss://127.0.0.1:{p}/0?ssl_ca_certs=/no/such/ca.pem",
        "a certificate file that the URL names cannot be read",
    ),
}


@pytest.mark.parametrize("fault", CONNECTIONS)
async def test_the_cause_of_a_failed_connection_is_named(server: RedisServer, fault: str, tmp_path: Path) -> None:
    url_for, words = CONNECTIONS[fault]
    with tls_listener(tmp_path) as port, capture_logs() as logs:
        url = url_for(server, port).replace("=CA", f"={tmp_path}/tls.crt")
        async with cache_on(url) as cache:
            await cache.fetch(A.id, 5)
            await until(lambda: words in "".join(problem.detail for problem in cache.problems()))
            [problem] = cache.problems()
            assert problem.name == ("cache_refuses_credentials" if fault == "wrong password" else UNAVAILABLE)
    assert any(words in line.get("cause", "") for line in logs)


async def test_whatever_the_driver_raises_is_an_outage_and_no_error(server: RedisServer) -> None:
    async with cache_on(url_of(server)) as cache:
        # An option that the driver does not know fails each time it connects.
        cache._redis.client.connection_pool.connection_kwargs["no_such_option"] = True
        await cache._redis.client.connection_pool.disconnect()
        cache._redis.client.connection_pool.reset()
        assert not await write(cache)
        assert await cache.fetch(FlagId("default", "a"), 5) is None
        assert cache._redis.breaker.opened >= 1
        assert [problem.name for problem in cache.problems()] in ([UNAVAILABLE], [])
        del cache._redis.client.connection_pool.connection_kwargs["no_such_option"]
        await until(lambda: cache.available)
        assert await write(cache)
