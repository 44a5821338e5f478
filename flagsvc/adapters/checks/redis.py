"""Checks of a Redis: connection, credentials, each kind of command, the channel, memory and clock."""

from __future__ import annotations

import time
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from flagsvc.adapters.causes import Cause
from flagsvc.adapters.checks.steps import CheckFailed, Finding, Steps, clock_detail, closing_quietly
from flagsvc.adapters.redis import scripts
from flagsvc.adapters.redis.causes import CREDENTIALS, redis_cause
from flagsvc.adapters.redis.keys import NO_FLAG, Keys
from flagsvc.adapters.redis.options import checked_options
from flagsvc.adapters.redis.ownership import MAX_NAME, OTHER_PREFIX, Ownership

_NO_INFO = "unknown, for the user may not run INFO; only metrics need it"


def check_redis(url: str, timeout_s: float, prefix: str = "", store_name: str = "") -> list[Finding]:
    """Try everything that a replica of a store does with Redis. Raises ValueError for an option that is not valid."""
    client: Any = redis.Redis.from_url(
        checked_options(url), socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0)
    )
    keys = Keys(prefix, client.connection_pool.connection_kwargs.get("db", 0))
    entry = keys.entry(NO_FLAG)
    steps = Steps("cache", _cause)
    with closing_quietly(client.close):
        connection = "connection (TLS)" if url.startswith("rediss:") else "connection"
        steps.run(connection, lambda: _connect(client), needed=True)
        steps.run("credentials", lambda: _authenticate(client), needed=True)
        steps.run("version", lambda: _version(client))
        steps.run("read", lambda: _said(client.mget([entry]), "entries can be read"))
        steps.run("owner", lambda: _owner(client, keys, store_name))
        steps.run("write", lambda: _write(client, entry))
        steps.run("scripts", lambda: _scripts(client, keys))
        steps.run("transactions", lambda: _transaction(client, entry))
        steps.run("every command that flagsvc runs", lambda: _probe(client, keys))
        steps.run("publish and subscribe", lambda: _channel(client, keys.channel, timeout_s))
        steps.run("audit", lambda: _said(client.scan(0, keys.entry_pattern, 10), "entries can be listed (SCAN)"))
        steps.run("memory", lambda: _memory(client))
        steps.run("clock", lambda: _clock(client))
    return steps.findings


def _cause(error: Exception) -> Cause:
    cause = redis_cause(error)
    return Cause(cause.text, cause.cure)


def _said(_: object, text: str) -> str:
    return text


def _connect(client: Any) -> str:
    """Connect; that the server refuses something comes later, for it shows that it can be reached."""
    try:
        client.ping()
    except Exception as error:
        if not redis_cause(error).text.startswith("Redis refuses"):
            raise
    return "the server answers"


def _authenticate(client: Any) -> str:
    try:
        client.ping()
    except Exception as error:
        if redis_cause(error).problem == CREDENTIALS:
            raise
        return "accepted"  # a right that is missing is the next checks' to find
    return "accepted"


def _version(client: Any) -> str:
    try:
        return f"Redis {client.info('server')['redis_version']}"
    except redis.ResponseError:
        return _NO_INFO


def _owner(client: Any, keys: Keys, store_name: str) -> str:
    """See whose the keys are, by the name of the store: replicas compare its identity as well."""
    ownership, owner = Ownership(store_name=store_name), client.get(keys.owner)
    if owner is None:
        return "no store uses the keys now"
    ownership.assume_owner(owner)
    if ownership.identity is not None:
        return f"the keys belong to {ownership.identity}"
    name = owner.decode(errors="replace").partition(" ")[2][:MAX_NAME]
    raise CheckFailed(f"the keys belong to another store, {name}; this one is {store_name}", OTHER_PREFIX)


def _write(client: Any, entry: str) -> str:
    client.set(entry, "", px=1_000)
    client.delete(entry)
    return "an entry was written and removed"


def _scripts(client: Any, keys: Keys) -> str:
    client.eval("return 1", 0)
    client.evalsha(client.script_load("return 1"), 0)
    client.register_script(scripts.PROBE)(keys=keys.probed(), args=[keys.channel])
    return "EVAL, EVALSHA and SCRIPT LOAD work"


def _transaction(client: Any, entry: str) -> str:
    with client.pipeline(transaction=True) as pipe:
        pipe.get(entry)
        pipe.execute()
    return "MULTI and EXEC work"


def _probe(client: Any, keys: Keys) -> str:
    names = keys.probed()
    client.eval(scripts.PROBE, len(names), *names, keys.channel)
    return "a script wrote, removed and published"


def _channel(client: Any, name: str, timeout_s: float) -> str:
    with client.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe(name)
        channel.get_message(timeout=timeout_s)  # the answer to the subscription
        sent_at = time.monotonic()
        client.publish(name, scripts.PROBE_MESSAGE)
        while (left := sent_at + timeout_s - time.monotonic()) > 0:
            message = channel.get_message(timeout=left)
            if message is not None and message["data"] == scripts.PROBE_MESSAGE.encode():
                return f"a message arrived after {1e3 * (time.monotonic() - sent_at):.0f} ms"
    raise CheckFailed(f"a message did not arrive within {timeout_s:g} s", "check whether Redis is overloaded")


def _memory(client: Any) -> str:
    try:
        found = client.info("memory")
    except redis.ResponseError:
        return _NO_INFO
    used, limit, policy = found["used_memory"], found["maxmemory"], found["maxmemory_policy"]
    if not limit:
        return f"{used / 1e6:.0f} MB used, without limit"
    text = f"{used / 1e6:.0f} of {limit / 1e6:.0f} MB used, policy {policy}"
    if policy == "noeviction" and used > 0.9 * limit:
        raise CheckFailed(text, "raise maxmemory, or set maxmemory-policy to volatile-ttl or allkeys-lru")
    return text


def _clock(client: Any) -> str:
    seconds, micros = client.time()
    return clock_detail(seconds + micros / 1e6 - time.time(), "Redis")
