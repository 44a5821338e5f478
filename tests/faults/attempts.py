"""What callers with tokens of their own did in a run: the tokens' changes, and every call and stream with one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

NEVER = math.inf
EVALUATE, READ = "evaluate", "read"
ACCEPTED, REFUSED, FAILED = "accepted", "refused", "failed"


@dataclass(slots=True)
class TokenChange:
    """One call of TokenService."""

    number: int
    method: str
    token: str
    """The token's id; empty while it is not known."""
    incarnation: int
    start: float
    end: float = NEVER
    acknowledged: bool = False
    reached: int = 0
    applied_by: list[str] = field(default_factory=list)
    lagging: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"token change {self.number} ({self.method})"


@dataclass(slots=True)
class Credential:
    """One secret of a token. Which changes made and ended it: their numbers."""

    number: int
    token: str
    made_by: int
    ended_by: int = 0
    """The first acknowledged change that ended it; 0: there is none."""
    end_asked: float = NEVER
    """When its end was asked for, the first time."""


@dataclass(slots=True)
class Attempt:
    """One call with a credential. `kind`: what it needs; `outcome`: refused is for its caller, failed anything else."""

    credential: int
    incarnation: int
    kind: str
    start: float
    end: float
    outcome: str


@dataclass(slots=True)
class OpenStream:
    """One stream with a credential, open at `opened`. `outcome`: empty if its client left it at the end."""

    credential: int
    incarnation: int
    method: str
    opened: float
    ended: float = NEVER
    outcome: str = ""
