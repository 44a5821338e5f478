"""Flags from what a test has: values by key, definitions as in flagd's files, or a file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from flagsvc_client._engine.documents import from_json
from flagsvc_client._engine.flagd.reading import read
from flagsvc_client._engine.json_values import json_path, problem
from flagsvc_client._engine.model import DEFAULT_SET, Flag, Status
from flagsvc_client.details import JsonValue
from flagsvc_client.local import snapshot_file

Source: TypeAlias = "Mapping[str, JsonValue | Flag] | Iterable[Flag] | str | os.PathLike[str]"
"""Values or definitions by key; the content of a flagd file; flags; or a file's path.

Files: flagd's JSON or YAML, a snapshot of a local client, or lines of JSON as `flagsvc import` reads them (.ndjson).
"""
_DOCUMENT_FIELDS = {"$schema", "flags", "$evaluators", "metadata"}
_MAX_FINDINGS = 20


def flags_of(source: Source, flag_set: str = DEFAULT_SET) -> list[Flag]:
    """Return the flags. Raises ValueError with everything that is wrong, OSError, and TypeError for other sources."""
    if isinstance(source, str | os.PathLike):
        return _from_file(Path(source), flag_set)
    if isinstance(source, Mapping):
        if isinstance(source.get("flags"), Mapping | list) and _DOCUMENT_FIELDS.issuperset(source):
            return _from_document(source, flag_set, "the flags")
        return [flag_of_value(key, value, flag_set) for key, value in source.items()]
    return list(source)


def flag_of_value(key: str, value: JsonValue | Flag, flag_set: str = DEFAULT_SET) -> Flag:
    """Return a flag that is on and has this value for everybody; None: one that is off, so that defaults are used.

    A dict with `variants` is a definition as in flagd's files. Raises ValueError for a bad one, and for no JSON.
    """
    if isinstance(value, Flag):
        return value
    if value is None:
        return Flag(key=key, name=key, flag_set=flag_set, status=Status.DISABLED)
    if isinstance(value, Mapping) and isinstance(value.get("variants"), Mapping):
        [flag] = _from_document({"flags": {key: dict(value)}}, flag_set, f"flag {key!r}")
        return flag
    if wrong := problem(value):
        raise ValueError(f"flag {key!r}: its value cannot be sent: {wrong}")
    variants: dict[str, Any] = {"on": True, "off": False} if isinstance(value, bool) else {"value": value}
    default = ("on" if value else "off") if isinstance(value, bool) else "value"
    return Flag(key=key, name=key, flag_set=flag_set, status=Status.ENABLED, variants=variants, default_variant=default)


def _from_file(path: Path, flag_set: str) -> list[Flag]:
    text = path.read_text(encoding="utf-8-sig")
    if snapshot_file.is_snapshot(text):
        saved = snapshot_file.read(path, flag_set)
        if saved is None:
            raise ValueError(f"{path} is a snapshot that cannot be used; the log says why")
        return saved.flags
    if path.suffix in (".ndjson", ".jsonl"):
        return [from_json(json.loads(line)) for line in text.splitlines() if line.strip()]
    return _from_document(_parsed(path, text), flag_set, str(path))


def _parsed(path: Path, text: str) -> JsonValue:
    if path.suffix not in (".yaml", ".yml"):
        return json.loads(text)
    try:
        import yaml  # noqa: PLC0415  only YAML files need it
    except ImportError as error:
        message = f"{path} needs {error.name}: pip install 'flagsvc-client[testing]'"
        raise ImportError(message, name=error.name) from None
    return yaml.safe_load(text)


def _from_document(document: JsonValue, flag_set: str, what: str) -> list[Flag]:
    content = read(document, flag_set, is_write=False)
    if content.violations:
        lines = [f"{json_path(each.path)}: {each.text}" for each in content.violations[:_MAX_FINDINGS]]
        raise ValueError("\n".join([f"{what} cannot be used:", *lines]))
    return content.flags
