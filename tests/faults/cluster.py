"""Everything that a run needs: stores, replicas, and a proxy on every path between them."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from flagsvc.access.token_writer import Grant, issued
from flagsvc.core.access.identity import UNCHECKED
from flagsvc.core.access.roles import Role
from tests.access.callers import bearer, stored
from tests.faults.neighbour import Neighbour
from tests.faults.proxy import Proxy
from tests.faults.record import Story
from tests.faults.replica import Access, Replica, python
from tests.faults.stores import DurableRedis, Mongods
from tests.servers import HOST

REPLICAS = 3
SKEWED, SKEW_S = 1, 3600.0
"""The replica whose wall clock is wrong, and by how much."""
_READY_S = 30.0
VERIFY_S = 20.0
_POLL_S = 0.05


class Cluster:
    """Starts and ends all of it. `flaw`: names of `tests.faults.planted`, with commas, which every replica has."""

    def __init__(
        self, story: Story, *, mongods: int, greedy_rate: int, flaw: str = "", folder: Path | None = None
    ) -> None:
        self._own_folder = tempfile.TemporaryDirectory(prefix="flagsvc-faults-") if folder is None else None
        self.folder = folder or Path(self._own_folder.name if self._own_folder else "")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.mongods = Mongods(mongods)
        self.redis = DurableRedis()
        self.redis_proxies = [Proxy(self.redis.port, label=_label(n), seed=n) for n in range(REPLICAS)]
        self.replicas: list[Replica] = []
        self.neighbour = Neighbour(story, self.folder, self.redis.port, story.seed + 4)
        self._story, self._flaw, self._greedy_rate = story, flaw, greedy_rate

    async def open(self) -> None:
        """Start everything, and wait until every replica is ready."""
        await asyncio.to_thread(self.redis.start)
        for proxy in self.redis_proxies:
            await proxy.start()
        await self.mongods.open()
        access = await self._first_tokens()
        for number, proxy in enumerate(self.redis_proxies):
            environment = {
                "FLAGSVC_STORE_URL": self.mongods.replica_url(number),
                "FLAGSVC_CACHE_URL": f"redis://{HOST}:{proxy.port}/0",
                "FLAGSVC_STALENESS_BOUND_S": str(self._story.bound_s),
                "FLAGSVC_VERIFY_INTERVAL_S": str(VERIFY_S),
                "FLAGSVC_AUTH": "required",
                "FLAGSVC_RATE_LIMITS": "enforce",
                "FLAGSVC_RATES": "admin=500",  # the end of a run asks for the status again and again
            }
            program = self._program(number)
            self.replicas.append(Replica(number, self._story, self.folder, program, environment, access=access))
        for replica in self.replicas:
            replica.start()
        await asyncio.gather(self.neighbour.start(), *(self._ready(replica) for replica in self.replicas))

    async def close(self) -> None:
        """End everything that was started, even after a failure."""
        await self.neighbour.close()
        for replica in self.replicas:
            await replica.close()
        await self.mongods.shut()
        await asyncio.to_thread(self.redis.close)
        for proxy in self.redis_proxies:
            await proxy.close()
        if self._own_folder is not None:
            self._own_folder.cleanup()

    def links(self, link: str, replica: int) -> Iterator[tuple[Proxy, str]]:
        """Return the proxies on a replica's connections of this kind, each with the label of those connections."""
        if link == "redis":
            yield self.redis_proxies[replica], _label(replica)
        else:
            label = _label(replica) + ("-tail" if link == "mongo-tail" else "")
            yield from ((proxy, label) for proxy in self.mongods.proxies)

    def seen(self) -> dict[str, int]:
        """Return how many connections there were, by link and replica."""
        links = [(link, n) for link in ("redis", "mongo", "mongo-tail") for n in range(REPLICAS)]
        return {f"{link} of replica {n}": sum(p.seen[label] for p, label in self.links(link, n)) for link, n in links}

    async def _first_tokens(self) -> Access:
        """Make the tokens of the load, straight on the store."""
        grants = (
            Grant("operator", Role.ADMIN, ("*",)),
            Grant("load", Role.EVALUATE, ("default",)),
            Grant("greedy", Role.EVALUATE, ("default",), rate=self._greedy_rate),
        )
        made = [issued(UNCHECKED, grant) for grant in grants]
        await stored(self.mongods.replica_url(0), *(token for token, _ in made))
        return Access(*(bearer(text) for _, text in made))

    async def _ready(self, replica: Replica) -> None:
        until = time.monotonic() + _READY_S
        while not replica.ready.is_set():
            if replica.incarnation.crashed or time.monotonic() > until:
                raise RuntimeError(f"{replica.named} did not start:\n{replica.log[-2000:]}")
            await asyncio.sleep(_POLL_S)

    def _program(self, number: int) -> Sequence[str]:
        skew_s = SKEW_S if number == SKEWED else 0.0
        if self._flaw:
            return python("tests.faults.planted", self._flaw, str(skew_s))
        return python("tests.faults.skewed", str(skew_s)) if skew_s else ()


def _label(replica: int) -> str:
    return f"replica-{replica}"
