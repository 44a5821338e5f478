"""One shared cache on an empty Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from flagsvc.adapters.redis.cache import RedisCache
from tests.redis_caches import cache_on


@pytest.fixture
async def cache(redis_clean_url: str) -> AsyncIterator[RedisCache]:
    async with cache_on(redis_clean_url, timeout_s=5) as cache:
        yield cache
