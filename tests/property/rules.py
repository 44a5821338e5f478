"""A seeded generator of random targeting rules, flags and contexts, and the reduction of a case to smaller ones."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from tests.property.values import (
    FIELDS,
    FLAG_KEYS,
    INNER_PATHS,
    KEYS,
    KINDS,
    NOT_VERSIONS,
    NUMBERS,
    PATHS,
    SEM_VER_TESTS,
    TEXTS,
    VERSIONS,
)


@dataclass(frozen=True)
class Case:
    """A flag with targeting, and a context. Each evaluator may refer to later ones."""

    flag_key: str
    rule: Any
    evaluators: dict[str, Any]
    kind: str
    default_variant: str | None
    state: str
    context: dict[str, Any]


class Maker:
    """Generates cases. The same seed generates the same cases."""

    def __init__(self, seed: int | str) -> None:
        self.random = Random(seed)
        self._names: list[str] = []
        self.broken = False
        self._variants: tuple[str, ...] = ("on", "off")

    def cases(self, contexts: int) -> list[Case]:
        """Return one flag with several contexts."""
        pick = self.random
        kind = pick.choice(tuple(KINDS))
        self._variants = tuple(KINDS[kind])
        evaluators = self._evaluators()
        self.broken = pick.random() < 0.04
        rule = self._root()
        if self.broken:
            rule = self._invalid(rule)
        default = pick.choice((*self._variants, *self._variants, None, "", "no-such"))
        state = "DISABLED" if pick.random() < 0.02 else "ENABLED"
        made = Case(pick.choice(FLAG_KEYS), rule, evaluators, kind, default, state, {})
        return [replace(made, context=self.context()) for _ in range(contexts)]

    def grafted(self, rule: Any) -> Any:
        """Return a rule with one of its parts replaced by a new one."""
        pick = self.random
        if isinstance(rule, list) and rule and pick.random() < 0.8:
            index = pick.randrange(len(rule))
            return [*rule[:index], self.grafted(rule[index]), *rule[index + 1 :]]
        if isinstance(rule, dict) and rule and pick.random() < 0.8:
            key = pick.choice(list(rule))
            return {**rule, key: self.grafted(rule[key])}
        return self.rule(2, root=pick.random() < 0.6)

    def context(self) -> dict[str, Any]:
        """Return a context. A third of them have no usable targeting key."""
        pick = self.random
        fields: dict[str, Any] = {}
        for name in pick.sample(FIELDS[:-1], pick.randrange(len(FIELDS))):
            fields[name] = self._fitting(name) if pick.random() < 0.7 else self.value(2)
        key = pick.choice(("user-1", f"user-{pick.randrange(1000)}", "é", f"{pick.random()}", "", None))
        return fields if key is None else {**fields, "targetingKey": key}

    def _fitting(self, name: str) -> Any:
        pick = self.random
        match name:
            case "n":
                return pick.choice(NUMBERS)
            case "s" | "u" | "größe":
                return pick.choice(TEXTS)
            case "l":
                return [self.value(1) for _ in range(pick.randrange(5))]
            case "o":
                return {key: self.value(2) for key in pick.sample(KEYS, pick.randrange(4))}
            case "ver":
                return pick.choice(VERSIONS + NOT_VERSIONS)
            case "email":
                return f"user{pick.randrange(99)}@example.com"
            case _:
                return self.value(1)

    def value(self, depth: int) -> Any:
        """Return a random JSON value."""
        pick = self.random
        match pick.randrange(10 if depth else 7):
            case 0:
                return None
            case 1:
                return pick.random() < 0.5
            case 2 | 3:
                return pick.choice(NUMBERS)
            case 4 | 5 | 6:
                return self._text()
            case 7 | 8:
                return [self.value(depth - 1) for _ in range(pick.randrange(4))]
            case _:
                return {key: self.value(depth - 1) for key in pick.sample(KEYS, pick.randrange(4))}

    def _text(self) -> str:
        return self.random.choice(TEXTS)

    def _evaluators(self) -> dict[str, Any]:
        """Return evaluators. The oracle replaces references by regular expression, which backslashes would break."""
        found: dict[str, Any] = {}
        self._names = []
        if self.random.random() < 0.25:
            for name in ("third", "second.one", "first")[: self.random.randrange(1, 4)]:
                rule = self.rule(2)
                if "\\" not in json.dumps(rule):
                    found = {name: rule, **found}
                    self._names.append(name)
        return found

    def _root(self) -> Any:
        pick = self.random
        if pick.random() < 0.4:
            return self.rule(3, operator=True)
        arguments = []
        for _ in range(pick.choice((1, 1, 2, 3))):
            arguments += [self.rule(2), self._choice()]
        if pick.random() < 0.7:
            arguments.append(self._choice())
        return {"if": arguments}

    def _choice(self) -> Any:
        chance = self.random.random()
        if chance < 0.7:
            return self.random.choice(self._variants)
        return None if chance < 0.8 else self._fractional(1, root=True) if chance < 0.9 else self.rule(1)

    def rule(self, depth: int, *, root: bool = True, operator: bool = False) -> Any:
        """Return a rule of the given depth, or a literal. `root`: its data is the context."""
        pick = self.random
        if not operator and (depth <= 0 or pick.random() < 0.25):
            return self._leaf(root)
        if root and self._names and pick.random() < 0.1:
            return {"$ref": pick.choice(self._names)}
        make = pick.choice(_MAKERS)
        return make(self, depth - 1, root)

    def _leaf(self, root: bool) -> Any:
        pick = self.random
        if pick.random() < 0.55:
            return self._var(root)
        literal = self.value(1)
        return {} if isinstance(literal, dict) and len(literal) == 1 else _literal(literal)

    def _var(self, root: bool) -> Any:
        pick = self.random
        path: Any
        if root:
            path = pick.choice(FIELDS) if pick.random() < 0.75 else pick.choice(PATHS)
        else:
            path = pick.choice(INNER_PATHS)
        chance = pick.random()
        if chance < 0.75:
            return {"var": path}
        if chance < 0.80:
            return {"var": [path]}
        if chance < 0.92:
            return {"var": [path if pick.random() < 0.8 else pick.choice((0, 1, "", 2.0)), _literal(self.value(1))]}
        if chance < 0.94:
            return {"var": [path, {"var": pick.choice(FIELDS if root else INNER_PATHS)}]}
        return {
            "var": pick.choice((None, "", [], 0, 1, 1.0, 0.5, -1, True, {"var": "s"}, [{"var": "n"}], [["a", "b"], 3]))
        }

    def _arguments(self, depth: int, root: bool, count: int) -> list[Any]:
        return [self.rule(depth, root=root) for _ in range(count)]

    def _plain(self, depth: int, root: bool) -> Any:
        pick = self.random
        name, counts = pick.choice(_PLAIN)
        count = pick.choice(counts)
        if count == 1 and pick.random() < 0.3:
            argument = self.rule(depth, root=root)
            return {name: argument if not isinstance(argument, list) else [argument]}
        return {name: self._arguments(depth, root, count)}

    def _comparison(self, _depth: int, root: bool) -> Any:
        """Compare a field with a constant, as most rules do."""
        pick = self.random
        name = pick.choice(("==", "!=", "===", "!==", "<", "<=", ">", ">="))
        constant = self._text() if pick.random() < 0.5 else pick.choice(NUMBERS)
        sides = [self._var(root), constant]
        if pick.random() < 0.2:
            sides.reverse()
        return {name: sides}

    def _within(self, depth: int, root: bool) -> Any:
        pick = self.random
        match pick.randrange(4):
            case 0:
                return {"in": [self._var(root), [self._text() for _ in range(pick.randrange(5))]]}
            case 1:
                return {"in": [self._text(), self._var(root)]}
            case 2:
                return {"in": [self._var(root), [_literal(self.value(1)) for _ in range(pick.randrange(6))]]}
            case _:
                return {"in": [self.rule(depth, root=root), self.rule(depth, root=root)]}

    def _if(self, depth: int, root: bool) -> Any:
        name = self.random.choice(("if", "if", "?:"))
        return {name: self._arguments(depth, root, self.random.choice((1, 2, 3, 3, 3, 4, 5, 7)))}

    def _loop(self, depth: int, root: bool) -> Any:
        pick = self.random
        items = self._items(depth, root)
        return {pick.choice(("map", "filter", "all", "some", "none")): [items, self.rule(depth, root=False)]}

    def _reduce(self, depth: int, root: bool) -> Any:
        pick = self.random
        body: Any = {pick.choice(("+", "*", "-", "max", "cat", "merge")): [{"var": "accumulator"}, {"var": "current"}]}
        if pick.random() < 0.4:
            body = self.rule(depth, root=False)
        start = [] if pick.random() < 0.3 else [pick.choice((None, 0, 1, "", "x", [], 0.5))]
        if pick.random() < 0.03:
            start = [self._var(root)]
        return {"reduce": [self._items(depth, root), body, *start]}

    def _items(self, depth: int, root: bool) -> Any:
        pick = self.random
        match pick.randrange(4):
            case 0:
                return {"var": pick.choice(("l", "o.l") if root else ("", "l", "current"))}
            case 1:
                return self.rule(depth, root=root)
            case _:
                return [_literal(self.value(1)) for _ in range(pick.randrange(5))]

    def _missing(self, depth: int, root: bool) -> Any:
        pick = self.random
        names = FIELDS + PATHS + (0, "", None) if root else INNER_PATHS
        keys: list[Any] = [pick.choice(names) for _ in range(pick.randrange(4))]
        match pick.randrange(5):
            case 0:
                return {"missing": self.rule(depth, root=root)}
            case 1:
                return {"missing": [keys]}
            case 2:
                return {"missing_some": [pick.choice((0, 1, 2, "1", None, 1.5)), keys]}
            case 3:
                return {"missing_some": self._arguments(depth, root, 2)}
            case _:
                return {"missing": keys}

    def _fractional(self, depth: int, root: bool) -> Any:
        pick = self.random
        shares = [self._share(depth, root) for _ in range(pick.choice((1, 2, 2, 2, 3, 5)))]
        match pick.randrange(4):
            case 0 | 1:
                return {"fractional": shares}
            case 2:
                return {"fractional": [{"cat": [{"var": "$flagd.flagKey"}, {"var": "email"}]}, *shares]}
            case _:
                seed = self.rule(depth, root=root)
                return {"fractional": shares if isinstance(seed, list) else [seed, *shares]}

    def _share(self, depth: int, root: bool) -> Any:
        pick = self.random
        chance = pick.random()
        variant: Any = pick.choice(self._variants) if chance < 0.8 else self.rule(depth, root=root)
        chance = pick.random()
        if chance < 0.15:
            return [variant]
        if chance < 0.85:
            return [variant, pick.choice((0, 1, 10, 25, 50, 99, 100, 2**30))]
        weight = self.rule(depth, root=root, operator=True)
        return [variant, weight] if isinstance(weight, dict) and len(weight) == 1 else [variant]

    def _sem_ver(self, depth: int, root: bool) -> Any:
        pick = self.random
        first = {"var": "ver"} if pick.random() < 0.7 else self.rule(depth, root=root)
        second = pick.choice(VERSIONS) if pick.random() < 0.7 else self.rule(depth, root=root)
        name = (
            pick.choice(SEM_VER_TESTS) if pick.random() < 0.95 else {"cat": ["<", pick.choice(("", "=", {"var": "s"}))]}
        )
        return {"sem_ver": [first, name, second]}

    def _ends(self, depth: int, root: bool) -> Any:
        pick = self.random
        subject = self._var(root) if pick.random() < 0.6 else self.rule(depth, root=root)
        part = pick.choice(("a", "user", "@example.com", "")) if pick.random() < 0.6 else self.rule(depth, root=root)
        return {pick.choice(("starts_with", "ends_with")): [subject, part]}

    def _variable(self, _depth: int, root: bool) -> Any:
        return self._var(root)

    def _invalid(self, rule: Any) -> Any:
        """Return a rule with a mistake: a wrong number of arguments, an unknown operator, or an invalid weight."""
        rule = copy.deepcopy(rule)
        nodes = [node for node in operators(rule) if isinstance(next(iter(node.values())), list)]
        if not nodes:
            return {"no_such": [rule]}
        node = self.random.choice(nodes)
        [(name, arguments)] = node.items()
        match self.random.randrange(4):
            case 0:
                arguments.append(self._leaf(root=True))
            case 1 if arguments:
                arguments.pop()
            case 2:
                del node[name]
                node[f"{name}_x"] = arguments
            case _:
                node[name] = {"fractional": [["on", self.random.choice((-1, 0.5, "1", None, True))], ["off", 1]]}
        return rule


_PLAIN = (
    ("==", (2,)),
    ("!=", (2,)),
    ("===", (2,)),
    ("!==", (2,)),
    ("<", (2, 2, 3)),
    ("<=", (2, 2, 3)),
    (">", (2, 2, 3)),
    (">=", (2, 2, 3)),
    ("!", (1,)),
    ("!!", (1,)),
    ("+", (1, 2, 3)),
    ("-", (1, 2)),
    ("*", (1, 2, 3)),
    ("/", (2,)),
    ("%", (2,)),
    ("min", (1, 2, 3)),
    ("max", (1, 2, 3)),
    ("in", (2,)),
    ("cat", (1, 2, 3)),
    ("substr", (2, 3)),
    ("merge", (0, 1, 2, 3)),
    ("log", (1,)),
    ("and", (1, 2, 3)),
    ("or", (1, 2, 3)),
)
_MAKERS = (
    *[Maker._plain] * 12,
    *[Maker._comparison] * 3,
    *[Maker._within] * 2,
    *[Maker._if] * 2,
    *[Maker._loop] * 3,
    Maker._reduce,
    Maker._missing,
    *[Maker._fractional] * 2,
    *[Maker._sem_ver] * 2,
    Maker._ends,
    Maker._variable,
)


def _literal(value: Any) -> Any:
    """Return a literal without objects of one field, which a rule would treat as operators."""
    if isinstance(value, list):
        return [_literal(item) for item in value]
    if isinstance(value, dict):
        return {} if len(value) == 1 else value
    return value


def operators(rule: Any) -> Iterator[dict[str, Any]]:
    """Yield every operator call in a rule."""
    if isinstance(rule, list):
        for item in rule:
            yield from operators(item)
    elif isinstance(rule, dict) and len(rule) == 1:
        yield rule
        yield from operators(next(iter(rule.values())))
