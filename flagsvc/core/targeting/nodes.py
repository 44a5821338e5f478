"""What a compiled rule is made of: nodes that are closures, and the run that they share during one evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..json_values import Path
from ..model import Attributes, JsonValue

MAX_WORK = 100_000
"""Steps that one evaluation may take in loops, over the elements of lists and through long texts."""
SEARCH_STEP = 4_096
"""Characters compared with characters that count as one step in the search for a text in a text."""
MAX_STEPS = 1_000
"""Steps that an explanation has."""
TEXT_STEP = 256
"""Characters of a text that count as one step."""
BRIEF = 256
"""Characters and elements up to which an explanation shows a value."""
SHORT_PATH = 3
"""Dots in a path that costs nothing more than any operator."""


class RuleError(Exception):
    """A rule has no result for this context: a division by zero, or a result beyond a bound."""


@dataclass(slots=True)
class Step:
    """What one operator gave, for explanations. `depth` is 0 for the rule itself."""

    path: Path
    operator: str
    depth: int
    result: JsonValue = None
    note: str = ""


class Run:
    """One evaluation: the context at the root, the time (seconds since 1970), and the work that is left."""

    __slots__ = ("_flagd", "_whole", "context", "depth", "now", "step", "steps", "work")
    _flagd: JsonValue
    _whole: JsonValue
    depth: int
    """How deep the step is that is taken now; as `steps` and `step` there only for a traced rule."""
    steps: list[Step]
    step: Step
    """The step that began last."""

    def __init__(self, context: Attributes, now: float) -> None:
        self.context = context
        self.now = now
        self.work = MAX_WORK

    def flagd(self, flag_key: str) -> JsonValue:
        """Give flagd's own fields: the same object each time, as a field of the context is."""
        try:
            return self._flagd
        except AttributeError:
            self._flagd = {"flagKey": flag_key, "timestamp": int(self.now)}
            return self._flagd

    def whole(self, flag_key: str) -> JsonValue:
        """Give all fields, flagd's own among them."""
        try:
            return self._whole
        except AttributeError:
            self.spend(len(self.context))
            self._whole = {**self.context, "$flagd": self.flagd(flag_key)}
            return self._whole

    def spend(self, steps: int) -> None:
        """Take steps from the work that is left. Raises RuleError when there is none."""
        self.work -= steps
        if self.work < 0:
            raise RuleError(f"more than {MAX_WORK} steps over lists and texts")

    def charge(self, value: JsonValue) -> None:
        """Spend what it takes to walk through a value: its elements, those of its elements too."""
        pending = [value]
        while pending:
            item = pending.pop()
            if item.__class__ is str:
                self.spend(len(item) // TEXT_STEP)
            elif isinstance(item, list):
                self.spend(len(item))
                pending.extend(item)
            elif isinstance(item, dict):
                self.spend(len(item))
                pending.extend(item.values())

    def charge_path(self, key: JsonValue) -> None:
        """Spend what it takes to follow a path, unless it is as short as most."""
        if key.__class__ is not str:
            self.charge(key)
        elif (dots := key.count(".")) > SHORT_PATH or len(key) > TEXT_STEP:
            self.spend(dots + len(key) // TEXT_STEP)


Compiled = Callable[[Any, Run], JsonValue]
"""Evaluates a node. Its data is the context's attributes at the root and the element inside a loop."""


class Among(NamedTuple):
    """A constant list as a set; None when a set cannot stand for it. `texts`: all of them are."""

    values: frozenset[JsonValue] | None
    texts: bool


@dataclass(slots=True)
class Node:
    """A compiled part of a rule. `size`: its nodes; `constant`: it gives `value` for every context."""

    run: Compiled
    size: int = 1
    constant: bool = False
    value: JsonValue = None
    field: str | None = None
    """The name of the context's field that it reads, where it does nothing else."""
    among: Among | None = None
    """A constant list's elements, once somebody asks whether a value is one of them."""


def literal(value: JsonValue, size: int = 1) -> Node:
    """Make what is the same for every context."""
    return Node(lambda _data, _run: value, size, constant=True, value=value)


def brief(value: JsonValue) -> JsonValue:
    """Give a value for people to read: as it is when it is small, else what it is."""
    pending, left = [value], BRIEF
    while pending:
        item = pending.pop()
        if isinstance(item, (str, list, dict)):
            left -= 1 + len(item)
            if left < 0:
                return _described(value)
        if isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, dict):
            pending.extend(item.values())
    return value


def _described(value: JsonValue) -> str:
    match value:
        case str():
            return f"a text of {len(value)} characters"
        case list():
            return f"a list of {len(value)} elements"
        case _:
            return f"an object of {len(value)} fields"
