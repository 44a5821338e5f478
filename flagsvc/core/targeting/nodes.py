"""The parts of a compiled rule: nodes, which are closures, and the run that they share during one evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from sys import getsizeof
from typing import Any, NamedTuple

from ..json_values import Path
from ..model import Attributes, JsonValue
from .jsonlogic import MAX_NUMBER_CHARS
from .versions import MAX_LENGTH as MAX_VERSION_CHARS

STEPS_PER_MS = 10_000
"""A step takes 0.1 microseconds or less: measured on a 2 GHz core, in the worst case of each kind of work."""
MAX_WORK = 50_000
"""Work limit of one evaluation in steps, which is 5 ms. No evaluation may hold the event loop longer."""
NODE_STEPS = 2
"""Steps of a node apart from the size of its data. They are set aside when a rule is compiled, not counted."""
ELEMENT_STEPS = 4
"""Steps for each element of a list or object that an operator walks through."""
KEY_STEPS = 16
"""Steps of looking up a path that is not known when the rule is compiled."""
FORMATTED_STEPS = 24
"""Steps of writing a number with a fraction as text."""
HASHED_PER_STEP = 32
"""Characters of a string that is encoded and hashed that count as one step."""
NUMBER_STEPS, DIGITS_PER_STEP = 8, 2
"""Steps of converting a text to a number, and how many of its characters count as one more."""
VERSION_STEPS = 32
"""Steps of reading a version; each character is one more."""
SPLIT_STEPS = 24
"""Steps of a split whose weights are computed, apart from its shares."""
MAX_STEPS = 1_000
"""Maximum number of steps in an explanation."""
TEXT_STEP = 256
"""Longest string that is free of charge."""
BYTES_PER_STEP = 256
"""Bytes in memory of a longer string that count as one step: one to four for each character."""
BRIEF = 256
"""Characters and elements up to which an explanation shows a value in full."""
SHORT_PATH = 3
"""Paths with up to this many dots are free of charge."""


def search_steps(wanted: int, length: int) -> int:
    """Return the steps of searching one string of a length in another.

    CPython compares up to every pair of characters where one of the two is short, else a few for each character.
    """
    if wanted > length:
        return 0
    is_quadratic = length < 2_500 or (wanted < 100 and length < 30_000)  # noqa: PLR2004  its own thresholds
    return length * (max(16, wanted) if is_quadratic else 16) // 400


class RuleError(Exception):
    """A rule has no result for this context, for example because of a limit."""


class OverBudget(RuleError):
    """A rule took more work than an evaluation may take."""


class Unparsable(RuleError):
    """A part of a rule was reached that cannot be compiled."""


@dataclass(slots=True)
class Step:
    """One operator's evaluation, for explanations. `depth` is 0 for the rule's outermost operator."""

    path: Path
    operator: str
    depth: int
    result: JsonValue = None
    note: str = ""


class Run:
    """One evaluation: the evaluation context, the time in seconds since 1970, and the remaining work in steps."""

    __slots__ = ("_flagd", "_whole", "context", "depth", "now", "step", "steps", "work")
    _flagd: JsonValue
    _whole: JsonValue
    depth: int
    """Depth of the current step. Like `steps` and `step`, it exists only for a traced rule."""
    steps: list[Step]
    step: Step
    """The step that started last."""

    def __init__(self, context: Attributes, now: float, work: int = MAX_WORK) -> None:
        self.context, self.now, self.work = context, now, work

    def flagd(self, flag_key: str) -> JsonValue:
        """Return the value of `$flagd`: the same object each time, like any field of the context."""
        try:
            return self._flagd
        except AttributeError:
            self._flagd = {"flagKey": flag_key, "timestamp": int(self.now)}
            return self._flagd

    def whole(self, flag_key: str) -> JsonValue:
        """Return the whole context, including `$flagd`."""
        try:
            return self._whole
        except AttributeError:
            self.spend(ELEMENT_STEPS * len(self.context))
            self._whole = {**self.context, "$flagd": self.flagd(flag_key)}
            return self._whole

    def spend(self, steps: int) -> None:
        """Subtract steps from the remaining work. Raises OverBudget when none is left."""
        self.work -= steps
        if self.work < 0:
            most_ms = MAX_WORK / STEPS_PER_MS
            raise OverBudget(f"more than {MAX_WORK} steps over lists and strings, which is {most_ms:g} ms of work")

    def charge(self, value: JsonValue, fraction_steps: int = 0) -> None:
        """Spend the steps of walking through a value and everything nested in it."""
        pending = [value]
        while pending:
            item = pending.pop()
            if item.__class__ is str:
                if len(item) > TEXT_STEP:
                    self.spend(getsizeof(item) // BYTES_PER_STEP)
            elif item.__class__ is float:
                self.spend(fraction_steps)
            elif isinstance(item, (list, dict)):
                self.spend(ELEMENT_STEPS * len(item))
                pending.extend(item.values() if isinstance(item, dict) else item)

    def charge_text(self, value: JsonValue) -> None:
        """Spend the steps of converting a value to a text."""
        self.charge(value, FORMATTED_STEPS)

    def charge_number(self, value: JsonValue) -> None:
        """Spend the steps of converting a value to a number: a list is converted by its first element."""
        if value.__class__ is list:
            self.charge(value)
            while value.__class__ is list and value:
                value = value[0]
        if value.__class__ is str and len(value) <= MAX_NUMBER_CHARS:
            self.spend(NUMBER_STEPS + len(value) // DIGITS_PER_STEP)

    def charge_version(self, value: JsonValue) -> None:
        """Spend the steps of reading a version that was not read before."""
        if value.__class__ is not str:
            self.charge_text(value)
            self.spend(VERSION_STEPS)
        elif len(value) <= MAX_VERSION_CHARS:
            self.spend(VERSION_STEPS + len(value))

    def charge_hash(self, text: str) -> None:
        """Spend the steps of hashing a string."""
        if len(text) > TEXT_STEP:
            self.spend(len(text) // HASHED_PER_STEP)

    def charge_path(self, key: JsonValue) -> None:
        """Spend the steps of following a path. Short paths are free."""
        if key.__class__ is not str:
            self.charge_text(key)
        elif (dots := key.count(".")) > SHORT_PATH or len(key) > TEXT_STEP:
            self.spend(NODE_STEPS * dots + 2 * getsizeof(key) // BYTES_PER_STEP)  # searched, and split


Compiled = Callable[[Any, Run], JsonValue]
"""Evaluates a node. Its data is the evaluation context at the root, and the element inside a loop."""


class ConstantSet(NamedTuple):
    """A constant list as a set: its texts, and what else can be equal to a value."""

    texts: frozenset[str]
    others: frozenset[object]


@dataclass(slots=True)
class Node:
    """A compiled part of a rule. `size` counts its nodes. A `constant` node evaluates to `value` for every context."""

    run: Compiled
    size: int = 1
    constant: bool = False
    value: JsonValue = None
    field: str | None = None
    """The name of the context field, for a node that only reads one field."""
    elements: ConstantSet | None = None
    """The elements of a constant list, set once an `in` operator needs them."""


def literal(value: JsonValue, size: int = 1) -> Node:
    """Return a constant node."""
    return Node(lambda _data, _run: value, size, constant=True, value=value)


def brief(value: JsonValue) -> JsonValue:
    """Return a small value as it is, and a description of a large one."""
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
            return f"a string of {len(value)} characters"
        case list():
            return f"a list of {len(value)} elements"
        case _:
            return f"an object of {len(value)} fields"
