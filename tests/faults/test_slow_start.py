"""The fault of a Redis that loads its keys slowly is real: commands are answered LOADING, and then with the keys."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.faults.stores import DurableRedis
from tests.servers import HOST


def connected(port: int) -> redis.Redis:
    return redis.Redis(host=HOST, port=port, socket_timeout=1, retry=Retry(NoBackoff(), 0))


def test_a_slow_start_answers_loading_until_every_key_is_there() -> None:
    # The server ends with the thread that started it.
    with ThreadPoolExecutor(1) as threads, DurableRedis() as server:
        with connected(server.port) as client:
            client.mset({f"key-{number}": "x" * 100 for number in range(100)})
        starting = threads.submit(server.start_slowly, 0.5)
        answers: set[type[redis.RedisError]] = set()
        while not starting.done():
            try:
                with connected(server.port) as client:
                    client.get("key-1")
            except redis.RedisError as error:
                answers.add(type(error))
        starting.result()
        assert redis.exceptions.BusyLoadingError in answers
        with connected(server.port) as client:
            assert client.dbsize() == 100
