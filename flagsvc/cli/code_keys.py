"""Finds the keys of flags in Python code by its syntax: calls of clients, guards, overrides and OpenFeature."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_TYPED = ("boolean", "string", "integer", "float", "object")
_OPENFEATURE = {
    f"get_{kind}_{what}{form}" for kind in _TYPED for what in ("value", "details") for form in ("", "_async")
}
_EVALUATING = {"is_enabled", "get_bool", "get_str", "get_int", "get_float", "get_object"} | _OPENFEATURE
"""Methods of any object: no other library has them with a key as first argument."""
_OF_CLIENTS = {"details", "flag", "history", "set", "toggle", "delete", "override"}
"""Methods of what the module shows to be a FlagClient: others have methods of these names."""
_FUNCTIONS = {"require_feature": 0, "override": 0, "Rule": 0, "RequireFeature": 1}
"""Function -> position of the key."""
_GUARDS = {"FlagGuard", "CallGuard", "call_guards"}
"""They take rules by method as second argument."""
_KEY_NAMES = ("key", "flag", "flag_key")
_SKIPPED = {"node_modules", "__pycache__", "site-packages"}

Constants = dict[tuple[str, str], str]
"""(module's last name, constant or Class.constant) -> its text."""


@dataclass(frozen=True, slots=True)
class Use:
    """A place that names a flag. `key` is None if it is computed there."""

    path: str
    line: int
    column: int
    key: str | None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file that is not Python of this version, or cannot be read."""

    path: str
    line: int
    why: str


def uses_in(paths: Iterable[Path]) -> tuple[list[Use], list[Unreadable]]:
    """Find all uses in files and folders, by path and line. Raises FileNotFoundError."""
    trees: dict[Path, ast.Module] = {}
    unreadable: list[Unreadable] = []
    for path in _files(paths):
        try:
            trees[path] = ast.parse(path.read_bytes(), str(path))
        except (SyntaxError, ValueError, RecursionError, OSError) as error:
            line = getattr(error, "lineno", None) or 1
            unreadable.append(Unreadable(str(path), line, getattr(error, "msg", None) or type(error).__name__))
    constants: Constants = {}
    for path, tree in trees.items():
        constants |= {(_module_of(path), name): text for name, text in _constants_of(tree.body)}
    uses = [use for path, tree in trees.items() for use in _Module(path, tree, constants).uses()]
    return sorted(uses, key=lambda use: (use.path, use.line, use.column)), unreadable


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
        found = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        for file in found:
            inside = file.relative_to(path).parts
            if not any(part.startswith(".") or part in _SKIPPED for part in inside):
                yield file


def _module_of(path: Path) -> str:
    return path.parent.name if path.name == "__init__.py" else path.stem


def _constants_of(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the texts that names of a module, and of its classes, stand for."""
    for statement in body:
        if isinstance(statement, ast.ClassDef) and not prefix:
            yield from _constants_of(statement.body, f"{statement.name}.")
        targets: list[ast.expr] = []
        if isinstance(statement, ast.Assign):
            targets = statement.targets
        elif isinstance(statement, ast.AnnAssign):
            targets = [statement.target]
        value = getattr(statement, "value", None)
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield from ((f"{prefix}{name.id}", value.value) for name in targets if isinstance(name, ast.Name))


class _Module:
    """One module: what its names stand for, and the calls in it."""

    def __init__(self, path: Path, tree: ast.Module, constants: Mapping[tuple[str, str], str]) -> None:
        self._path, self._tree, self._constants = path, tree, constants
        self._imported: dict[str, tuple[str, str]] = {}
        self._clients: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                module = (node.module or "").rpartition(".")[2] or path.parent.name
                self._imported |= {alias.asname or alias.name: (module, alias.name) for alias in node.names}
            self._clients.update(_clients_in(node))

    def uses(self) -> Iterator[Use]:
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Call):
                for place in self._places(node):
                    for key in self._texts(place):
                        yield Use(str(self._path), place.lineno, place.col_offset, key)

    def _places(self, call: ast.Call) -> Iterator[ast.expr]:
        """Yield the arguments of a call that are keys."""
        name = _name_of(call.func)
        receiver = _name_of(call.func.value) if isinstance(call.func, ast.Attribute) else None
        of_client = receiver is not None and receiver in self._clients
        if receiver is not None and (name in _EVALUATING or (name in _OF_CLIENTS and of_client)):
            yield from _argument(call, 0)
        elif name == "batch" and of_client:
            for keys in _argument(call, 0, "keys"):
                yield from keys.elts if isinstance(keys, ast.List | ast.Tuple | ast.Set) else [keys]
        elif name in _FUNCTIONS:
            for place in _argument(call, _FUNCTIONS[name]):
                yield from (key for key in place.keys if key) if isinstance(place, ast.Dict) else [place]
        elif name in _GUARDS:
            for rules in _argument(call, 1, "rules"):
                values = rules.values if isinstance(rules, ast.Dict) else []
                yield from (value for value in values if not isinstance(value, ast.Call) and not _is_none(value))

    def _texts(self, place: ast.expr) -> Iterator[str | None]:
        """Yield the texts that an expression can be; None if it is computed."""
        if isinstance(place, ast.IfExp):
            yield from self._texts(place.body)
            yield from self._texts(place.orelse)
        elif isinstance(place, ast.Constant):
            if isinstance(place.value, str):
                yield place.value
        else:
            yield self._constant(place)

    def _constant(self, place: ast.expr) -> str | None:
        own = _module_of(self._path)
        if isinstance(place, ast.Name):
            return self._constants.get(self._imported.get(place.id, (own, place.id)))
        if isinstance(place, ast.Attribute) and place.attr == "value":
            return self._constant(place.value)
        if isinstance(place, ast.Attribute) and isinstance(place.value, ast.Name):
            module, holder = self._imported.get(place.value.id, (own, place.value.id))
            found = self._constants.get((module, f"{holder}.{place.attr}"))
            return found or self._constants.get((holder, place.attr))
        return None


def _argument(call: ast.Call, position: int, *names: str) -> Iterator[ast.expr]:
    """Yield an argument by its position, or else by its name; nothing if the call does not have it."""
    if len(call.args) > position:
        yield call.args[position]
    else:
        yield from (each.value for each in call.keywords if each.arg in (names or _KEY_NAMES))


def _clients_in(node: ast.AST) -> Iterator[str]:
    """Yield the names that a statement shows to be clients: assigned, annotated, or bound by `with`."""
    pairs: list[tuple[ast.expr | None, ast.expr | None]] = []
    if isinstance(node, ast.Assign):
        pairs = [(target, node.value) for target in node.targets]
    elif isinstance(node, ast.AnnAssign):
        pairs = [(node.target, node.annotation), (node.target, node.value)]
    elif isinstance(node, ast.withitem):
        pairs = [(node.optional_vars, node.context_expr)]
    elif isinstance(node, ast.arg) and node.annotation is not None and _is_client(node.annotation):
        yield node.arg
    for target, value in pairs:
        if target is not None and value is not None and _is_client(value) and (name := _name_of(target)):
            yield name


def _is_client(expression: ast.expr) -> bool:
    """Whether an expression makes a client, or is the class of one."""
    name = _name_of(expression.func if isinstance(expression, ast.Call) else expression)
    text = expression.value if isinstance(expression, ast.Constant) else name
    return isinstance(text, str) and text.endswith("FlagClient")


def _is_none(expression: ast.expr) -> bool:
    return isinstance(expression, ast.Constant) and expression.value is None


def _name_of(expression: ast.expr) -> str | None:
    """Return the last name of an expression such as `app.flags`."""
    if isinstance(expression, ast.Name):
        return expression.id
    return expression.attr if isinstance(expression, ast.Attribute) else None
