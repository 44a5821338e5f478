"""`python -m tests.doctor`: what `flagsvc status` and `flagsvc doctor` print for set-ups that are broken.

Each has a replica of its own, with a real MongoDB and a real Redis.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import redis

from tests.doctor.test_doctor import USERS, user
from tests.guarded_mongod import GuardedMongod
from tests.replicas import FLAGSVC, PROGRAM, Process
from tests.servers import HOST, Mongod, RedisServer, free_port

START_S, SETTLED_S = 30.0, 4.0
"""How long a replica may take to listen, and how long it runs before it is asked: it finds out what does not work."""


@dataclass(slots=True)
class SetUp:
    """URLs of a store and a cache, and what is done to Redis before, and to the whole once the replica runs."""

    store: str
    cache: str
    redis_commands: tuple[tuple[str, ...], ...] = ()
    neighbour: str = ""
    """The store of another replica that shares the Redis and started before."""
    broken_later: tuple[str, ...] = field(default=())
    """A command to Redis once the replica runs."""


def main() -> None:
    """Print one set-up after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of the set-ups' names (default: all)")
    names: list[str] = parser.parse_args().names
    with contextlib.ExitStack() as stack:
        guarded = stack.enter_context(GuardedMongod())
        alone = stack.enter_context(Mongod(replica_set=False))
        for name, make in _set_ups(guarded, alone).items():
            if not names or any(each in name for each in names):
                with RedisServer() as cache:
                    _add_users(cache)
                    _show(name, make(cache), cache)


def _set_ups(guarded: GuardedMongod, alone: Mongod) -> dict[str, Callable[[RedisServer], SetUp]]:
    store, closed = guarded.url_of("least"), free_port()
    return {
        "Redis is down": lambda _: SetUp(store, f"redis://{HOST}:{closed}/0"),
        "Redis: wrong password": lambda r: SetUp(store, user(r, "works", "wr0ng")),
        "Redis: no right to publish": lambda r: SetUp(store, user(r, "nopublish")),
        "Redis: no right to the keys": lambda r: SetUp(store, user(r, "nokeys")),
        "Redis is a read-only replica": lambda r: SetUp(store, r.url, (("REPLICAOF", HOST, "1"),)),
        "Redis is full": lambda r: SetUp(
            store, r.url, (("DEBUG", "POPULATE", "5000"), ("CONFIG SET", "maxmemory", "1mb"))
        ),
        "Redis lost the right to write while in use": lambda r: SetUp(
            store, user(r, "works"), broken_later=("ACL", "SETUSER", "works", "-@write")
        ),
        "another deployment has this Redis": lambda r: SetUp(
            store, r.url, neighbour=guarded.url_of("admin", "another_shop")
        ),
        "MongoDB is down": lambda r: SetUp(f"mongodb://{HOST}:{closed}/shop", r.url),
        "MongoDB: wrong password": lambda r: SetUp(store.replace("s3cret", "wr0ng"), r.url),
        "MongoDB: no right to write": lambda r: SetUp(guarded.url_of("reader"), r.url),
        "MongoDB: no right to the change stream": lambda r: SetUp(guarded.url_of("nostream"), r.url),
        "MongoDB is no replica set": lambda r: SetUp(alone.database_url("shop"), r.url),
    }


def _add_users(server: RedisServer) -> None:
    with redis.Redis.from_url(server.url) as direct:
        for name, rules in USERS.items():
            direct.execute_command("ACL", "SETUSER", name, "on", ">s3cret", *rules.split())


def _show(name: str, setup: SetUp, cache: RedisServer) -> None:
    _say(f"\n==== {name}\n")
    urls = {"FLAGSVC_STORE_URL": setup.store, "FLAGSVC_CACHE_URL": setup.cache}
    with redis.Redis.from_url(cache.url) as direct, _neighbour(setup, cache):
        for command in setup.redis_commands:
            direct.execute_command(*command)
        with _serving(urls) as replica:
            if setup.broken_later:
                direct.execute_command(*setup.broken_later)
                time.sleep(SETTLED_S)
            _run("status", "--address", replica.address, environment={})
            _run("doctor", "--timeout", "1", environment=urls)


@contextlib.contextmanager
def _neighbour(setup: SetUp, cache: RedisServer) -> Iterator[None]:
    if not setup.neighbour:
        yield
        return
    urls = {"FLAGSVC_STORE_URL": setup.neighbour, "FLAGSVC_CACHE_URL": cache.url}
    with _serving(urls):
        yield


@contextlib.contextmanager
def _serving(urls: dict[str, str]) -> Iterator[Process]:
    with Process(program=PROGRAM, FLAGSVC_AUTH="off", **urls) as replica:
        deadline = time.monotonic() + START_S
        with socket.socket() as probe:
            while probe.connect_ex((HOST, replica.port)) and time.monotonic() < deadline:
                time.sleep(0.1)
        time.sleep(SETTLED_S)
        yield replica


def _run(*arguments: str, environment: dict[str, str]) -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("FLAGSVC_")}
    _say(f"$ flagsvc {' '.join(arguments)}\n")
    ended = subprocess.run(
        [str(FLAGSVC), *arguments],
        env=plain | environment | {"COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )
    _say(f"{ended.stdout}{ended.stderr}exit {ended.returncode}\n")


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
