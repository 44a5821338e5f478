"""Compiles a targeting rule into closures. Invalid parts are collected with their paths and compiled as null."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from ..json_values import INT64, Path, compact, json_path, problem, whole_as_float
from ..model import DEFAULT_BUCKETING, JsonValue
from .nodes import MAX_STEPS, TEXT_STEP, Node, RuleError, Run, Step, Unparsable, brief, literal

MAX_DEPTH = 100
MAX_NODES = 10_000
MAX_PROBLEMS = 20
MAX_QUOTED = 80
_TOLERANT = frozenset({"sem_ver", "starts_with", "ends_with", "fractional"})
_SCALARS = frozenset({str, int, float, bool, type(None)})

Form = Callable[["Call"], Node]
"""Compiles one operator's calls. Raises CallProblem for invalid arguments."""


class Effect(StrEnum):
    """What a problem does to a flag that is stored, or in a file, all the same."""

    AMBIGUOUS = "AMBIGUOUS"
    PARSE_ERROR = "PARSE_ERROR"
    NULL = "NULL"


@dataclass(frozen=True, slots=True)
class RuleProblem:
    """A problem in a rule or in the named evaluator: its path, what is wrong, and what is valid."""

    path: Path
    message: str
    evaluator: str | None = None
    effect: Effect = Effect.NULL

    def __str__(self) -> str:
        """Return one line that says where the rule is wrong, and why."""
        path = json_path(self.path)
        location = f"evaluator {self.evaluator!r}, {path}" if self.evaluator is not None else path
        return f"{location}: {self.message}"


def as_json(value: JsonValue) -> str:
    """Return a part of a rule as JSON for a message, cut after 80 characters."""
    text = compact(brief(value))
    return text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}..."


class CallProblem(Exception):
    """An operator's argument is invalid. `path` leads to it from the operator."""

    def __init__(self, message: str, *path: int) -> None:
        super().__init__(message)
        self.path = path


class Compiler:
    """Compiles the rules of one flag and collects their problems."""

    def __init__(
        self,
        forms: Mapping[str, Form],
        flag_key: str,
        evaluators: Mapping[str, JsonValue],
        *,
        fractional_version: int = DEFAULT_BUCKETING,
        traced: bool = False,
        lenient: bool = False,
    ) -> None:
        self.lenient, self.is_too_big = lenient, False
        self.reads_clock = False
        """Whether a rule may read `$flagd.timestamp`."""
        self.flag_key, self.fractional_version, self.traced = flag_key, fractional_version, traced
        self.problems: list[RuleProblem] = []
        self._forms, self._evaluators = forms, evaluators
        self._path: list[str | int] = []
        self._open_evaluators: list[str] = []
        self._depth = self._deepest = self._nodes = 0
        self._compiled: dict[tuple[str, bool], tuple[Node, int]] = {}
        self._folding = Run({}, 0.0)

    def root(self, rule: JsonValue) -> Node:
        """Compile a whole rule. Several rules may share the evaluators."""
        self._nodes = 0
        return self.node(rule, at_root=True)

    def fold(self, function: Callable[..., JsonValue], values: list[JsonValue]) -> JsonValue:
        """Apply an operator to constants. Raises RuleError once constant folding has used up its work limit."""
        for value in values:
            self._folding.charge(value)
        result = function(*values)
        if result.__class__ is str and len(result) > TEXT_STEP:
            raise RuleError("a string too long to keep")
        return result

    def node(self, rule: JsonValue, *, at_root: bool) -> Node:
        """Compile the part at the current path. `at_root`: its data is the context, not a loop's element."""
        kind = rule.__class__
        if kind in _SCALARS:
            if kind is int and rule not in INT64:
                self._wrong("an integer outside -2^63 to 2^63-1")
                return literal(whole_as_float(rule))
            return literal(rule)
        if self._too_big(1, 1):
            return literal(None)
        self._depth += 1
        self._deepest = max(self._deepest, self._depth)
        try:
            if kind is list:
                return self._list(rule, at_root)
            return self._operator(rule, at_root) if len(rule) == 1 else self._object(rule)
        finally:
            self._depth -= 1

    def at(self, step: str | int, rule: JsonValue, *, at_root: bool) -> Node:
        """Compile the part one path step further."""
        self._path.append(step)
        try:
            return self.node(rule, at_root=at_root)
        finally:
            self._path.pop()

    def _wrong(self, message: str, *further: int, effect: Effect = Effect.NULL) -> Node:
        """Note a problem, and return what is compiled in the place of the wrong part."""
        evaluator = self._open_evaluators[-1] if self._open_evaluators else None
        found = RuleProblem((*self._path, *further), message, evaluator, effect)
        if len(self.problems) < MAX_PROBLEMS and found not in self.problems:
            self.problems.append(found)
        return literal(None) if effect is Effect.NULL else _failing(str(found))

    def tolerates(self, operator: str, error: CallProblem) -> bool:
        """Whether wrong arguments are only noted: flagd's own operators take them, and their result is null."""
        if not (self.lenient and operator in _TOLERANT):
            return False
        self._wrong(str(error), *error.path)
        return True

    def _too_big(self, nodes: int, depth: int) -> bool:
        """Count the parts to be added. Return whether they are too many or too deeply nested."""
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            self.is_too_big = True
            if self._nodes - nodes <= MAX_NODES:  # Reported once.
                self._wrong(f"the rule has more than {MAX_NODES} parts; split it, or list values in one array")
        elif self._depth + depth > MAX_DEPTH:
            self.is_too_big = True
            self._wrong(f"nested more than {MAX_DEPTH} deep")
        else:
            return False
        return True

    def _object(self, fields: dict[str, JsonValue]) -> Node:
        """Compile an object without exactly one field: as in json-logic-js, it is a literal, which counts as true.

        Where one of its fields is an operator, a rule was meant that no engine evaluates.
        """
        operators = [name for name in fields if name in self._forms or name == "$ref"]
        if operators:
            named = ", ".join(repr(name[:80]) for name in list(fields)[:3])
            message = f"an object with {len(fields)} fields ({named}); an operator must be its object's only field"
            return self._wrong(message, effect=Effect.AMBIGUOUS)
        wrong = problem(fields)
        effect = Effect.PARSE_ERROR
        return self._wrong(f"invalid object literal: {wrong}", effect=effect) if wrong else literal(fields)

    def _list(self, items: list[JsonValue], at_root: bool) -> Node:
        if all(item.__class__ in _SCALARS and (item.__class__ is not int or item in INT64) for item in items):
            return literal(items)
        nodes = [self.at(index, item, at_root=at_root) for index, item in enumerate(items)]
        size = 1 + sum(node.size for node in nodes)
        if all(node.constant for node in nodes):
            return literal([node.value for node in nodes], size)
        runs = tuple(node.run for node in nodes)
        return Node(lambda data, run: [each(data, run) for each in runs], size)

    def _operator(self, rule: dict[str, JsonValue], at_root: bool) -> Node:
        [(name, raw)] = rule.items()
        self._path.append(name)
        try:
            if name == "$ref":
                return self._reference(raw, at_root)
            form = self._forms.get(name)
            if form is None:
                known = ", ".join(sorted(self._forms))
                message = f"unknown operator {name[:80]!r}; known operators: {known}"
                return self._wrong(message, effect=Effect.PARSE_ERROR)
            listed = isinstance(raw, list)
            try:
                node = form(Call(self, name, raw if listed else [raw], at_root, listed))
            except CallProblem as problem:
                return self._wrong(str(problem), *(problem.path if listed else ()), effect=Effect.PARSE_ERROR)
            return self._traced(node, name, _read_by(name, raw)) if self.traced else node
        finally:
            self._path.pop()

    def _reference(self, name: JsonValue, at_root: bool) -> Node:
        if not isinstance(name, str) or name not in self._evaluators:
            known = ", ".join(sorted(self._evaluators)) or "none"
            message = f"unknown evaluator {as_json(name)}; known evaluators: {known}"
            return self._wrong(message, effect=Effect.PARSE_ERROR)
        if name in self._open_evaluators:
            message = f"{name!r} refers to itself: {' -> '.join([*self._open_evaluators, name])}"
            return self._wrong(message, effect=Effect.PARSE_ERROR)
        if (name, at_root) in self._compiled:
            node, height = self._compiled[name, at_root]
            self._deepest = max(self._deepest, self._depth + height)
            return literal(None) if self._too_big(node.size, height) else node
        path, self._path = self._path, []
        self._open_evaluators.append(name)
        deepest, self._deepest = self._deepest, self._depth
        try:
            node = self.node(self._evaluators[name], at_root=at_root)
        finally:
            self._open_evaluators.pop()
            self._path = path
            height = self._deepest - self._depth
            self._deepest = max(deepest, self._deepest)
        self._compiled[name, at_root] = node, height
        return node

    def _traced(self, node: Node, name: str, note: str) -> Node:
        """Return the node, recording a step with its result whenever it is evaluated."""
        within = self._open_evaluators
        path = ("$evaluators", within[-1], *self._path) if within else tuple(self._path)
        inner = node.run

        def traced(data: object, run: Run) -> JsonValue:
            step = run.step = Step(path, name, run.depth, note=note)
            if len(run.steps) < MAX_STEPS:
                run.steps.append(step)
            run.depth += 1
            try:
                result = inner(data, run)
                step.result = brief(result)
            except RuleError as error:
                step.note = str(error)
                raise
            finally:
                run.depth -= 1
            return result

        return Node(traced, node.size, node.constant, node.value)


def _failing(message: str) -> Node:
    """Return the node of a part that cannot be compiled: it fails for the callers who reach it."""

    def fail(_data: object, _run: Run) -> JsonValue:
        raise Unparsable(message)

    return Node(fail)


def _read_by(name: str, raw: JsonValue) -> str:
    """Return the constant path that a `var` reads, as the note of its step; empty for all else."""
    path = raw[0] if isinstance(raw, list) and raw else raw
    return path if name == "var" and isinstance(path, str) else ""


@dataclass(slots=True)
class Call:
    """A call to be compiled: an operator with its arguments as JSON."""

    compiler: Compiler
    name: str
    raw: list[JsonValue]
    at_root: bool
    listed: bool
    """Whether the rule has the arguments in an array. JsonLogic allows a single argument without one."""

    def expect(self, low: int, high: int) -> bool:
        """Check the number of arguments. Raises CallProblem, or returns False where a wrong one is tolerated."""
        found = len(self.raw)
        if low <= found <= high:
            return True
        wanted = f"{low}" if low == high else f"{low} to {high}" if found > high else f"at least {low}"
        return self.refuse(f"{self.name} has {found} arguments; it must have {wanted}")

    def refuse(self, message: str, *path: int) -> bool:
        """Raise CallProblem for wrong arguments, or return False where they are tolerated."""
        error = CallProblem(message, *path)
        if not self.compiler.tolerates(self.name, error):
            raise error
        return False

    def argument(self, index: int, *, at_root: bool | None = None) -> Node:
        """Compile one argument; a missing one is null. `at_root`: its data is the context, not a loop's element."""
        if index >= len(self.raw):
            return literal(None, 0)
        inner = self.at_root if at_root is None else at_root
        if not self.listed:
            return self.compiler.node(self.raw[index], at_root=inner)
        return self.compiler.at(index, self.raw[index], at_root=inner)

    def arguments(self) -> list[Node]:
        """Compile all arguments."""
        return [self.argument(index) for index in range(len(self.raw))]
