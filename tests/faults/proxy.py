"""A TCP proxy on the loopback that disturbs connections, each independently of the others.

A connection's label names who made it: set for the whole listener, or found in the first bytes of a MongoDB driver,
which sends its `appName` there. Connections without a label (between mongods) are never disturbed.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from tests.faults.connection import Connection, End
from tests.servers import free_port

HOST = "127.0.0.1"
_APP_NAME = re.compile(rb"\x02name\x00.{4}(?:flagsvc:)?(replica-\d+[a-z-]*)\x00", re.DOTALL)
_LONGEST_GREETING = 4096
_BACKLOG = 256


@dataclass(slots=True)
class Rule:
    """What happens to the present and future connections of one label. Times in seconds."""

    delay_s: float = 0.0
    jitter_s: float = 0.0
    stalled: bool = False
    refused: bool = False
    black_hole: bool = False


class Proxy:
    """Listens on `port` and forwards to `upstream_port` and back, as the rules say."""

    def __init__(self, upstream_port: int, *, label: str = "", port: int = 0, seed: int = 0) -> None:
        """Without a label, each connection's label is found in its first bytes."""
        self.upstream_port, self.label, self.port = upstream_port, label, port
        self.seen: Counter[str] = Counter()
        """Connections by label, counted from the start."""
        self._rules: dict[str, Rule] = {}
        self._random = random.Random(seed)
        self._connections: list[Connection] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen; on a free port unless one is given."""
        listening = socket.create_server((HOST, self.port or free_port()), backlog=_BACKLOG)
        self.port = listening.getsockname()[1]
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, sock=listening, backlog=_BACKLOG)

    async def close(self) -> None:
        """Stop listening and drop every connection."""
        self._deafen()
        for connection in list(self._connections):
            connection.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def open(self, label: str) -> list[Connection]:
        """Return the connections of a label that are open now, oldest first."""
        return [c for c in self._connections if c.label == label]

    def delay(self, label: str, seconds: float, jitter_s: float = 0.0) -> None:
        """Hold the data for this long each way, plus or minus the jitter; the order is kept."""
        self.rule(label).delay_s, self.rule(label).jitter_s = seconds, jitter_s

    def stall(self, label: str) -> None:
        """Forward nothing and close nothing, until healed."""
        self.rule(label).stalled = True

    def black_hole(self, label: str) -> None:
        """Accept new connections and never answer them, not even after `heal`."""
        self.rule(label).black_hole = True

    async def refuse(self, label: str) -> None:
        """Refuse new connections; existing ones go on."""
        self.rule(label).refused = True
        if label == self.label:
            self._deafen()

    async def heal(self, label: str) -> None:
        """Undo every lasting fault."""
        deaf = self._rules.pop(label, Rule()).refused and label == self.label
        if deaf:
            await self.start()
        for connection in self.open(label):
            connection.stalled = False
            connection.flow()

    def cut(self, label: str) -> None:
        """Close the connections of a label in order: both sides see their end."""
        self._each(label, Connection.cut)

    def reset(self, label: str) -> None:
        """Break the connections of a label: both sides see a reset."""
        self._each(label, Connection.reset)

    def half_close(self, label: str, *, to_upstream: bool) -> None:
        """Shut one direction of the connections of a label: its reader sees the end, its writer notices nothing."""
        self._each(label, lambda connection: connection.half_close(to_upstream=to_upstream))

    def rule(self, label: str) -> Rule:
        """Return what applies to a label now."""
        return self._rules.setdefault(label, Rule())

    def is_stalled(self, connection: Connection) -> bool:
        """Whether the connection must not forward now."""
        rule = self._rules.get(connection.label)
        return connection.stalled or (rule is not None and rule.stalled)

    def hold_s(self, connection: Connection) -> float:
        """How long data that comes now is held."""
        rule = self._rules.get(connection.label)
        if rule is None or not rule.delay_s:
            return 0.0
        return max(0.0, rule.delay_s + self._random.uniform(-rule.jitter_s, rule.jitter_s))

    def accepted(self, connection: Connection) -> None:
        """Handle a new client. Where its label is already known, connect at once."""
        if self.label:
            self._welcome(connection)

    def greeted(self, connection: Connection, greeting: bytes) -> None:
        """Look for the label in the first bytes, and connect once it is found or there can be none."""
        if not self.label:
            found = _APP_NAME.search(greeting)
            whole = len(greeting) >= min(int.from_bytes(greeting[:4], "little"), _LONGEST_GREETING)
            if found is None and (len(greeting) < 4 or not whole):
                return
            connection.label = found[1].decode() if found else ""
        self._welcome(connection)

    def forget(self, connection: Connection) -> None:
        """Handle that a connection is closed on both sides."""
        if connection in self._connections:
            self._connections.remove(connection)

    def _accept(self) -> End:
        connection = Connection(self)
        connection.label = self.label
        self._connections.append(connection)
        return connection.client

    def _welcome(self, connection: Connection) -> None:
        connection.known = True
        self.seen[connection.label] += 1
        rule = self._rules.get(connection.label, Rule())
        if rule.refused:
            connection.reset()
        elif not rule.black_hole:
            task = asyncio.create_task(self._connect(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: connection.upstream, HOST, self.upstream_port)
        except OSError:
            connection.reset()

    def _each(self, label: str, act: Callable[[Connection], None]) -> None:
        for connection in self.open(label):
            act(connection)

    def _deafen(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
