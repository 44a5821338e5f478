"""A new public name of the Python client needs a typed use in `client_api.py`, which mypy checks."""

from __future__ import annotations

import ast
from pathlib import Path
from types import ModuleType

import flagsvc_client
import pytest
from flagsvc_client import aio, guards

TREE = ast.parse((Path(__file__).parent / "client_api.py").read_text())


def imported_and_used(module: str) -> set[str]:
    """The names that the file imports from a module and reads."""
    imports = [node for node in ast.walk(TREE) if isinstance(node, ast.ImportFrom) and node.module == module]
    imported = {alias.name for node in imports for alias in node.names if alias.asname is None}
    return imported & {node.id for node in ast.walk(TREE) if isinstance(node, ast.Name)}


@pytest.mark.parametrize("module", [flagsvc_client, guards], ids=lambda module: module.__name__)
def test_every_public_name_has_a_typed_use(module: ModuleType) -> None:
    assert imported_and_used(module.__name__) == set(module.__all__)


@pytest.mark.parametrize(
    ("function", "client"), [("synchronous", flagsvc_client.FlagClient), ("asynchronous", aio.AsyncFlagClient)]
)
def test_every_public_method_has_a_typed_use(function: str, client: type) -> None:
    bodies = [node for node in ast.walk(TREE) if str(getattr(node, "name", "")).startswith(function)]
    used = {
        node.attr
        for body in bodies
        for node in ast.walk(body)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "client"
    }
    assert used == {name for name in dir(client) if not name.startswith("_")}
