"""flagd files on the command line: recognises, validates, reads and writes them."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from flagsvc.adapters.files.checked import CheckedFile, Located, checked
from flagsvc.adapters.files.parse import is_yaml
from flagsvc.cli.exit_codes import FAILED, OK
from flagsvc.cli.input_files import BadFile, read_bytes
from flagsvc.cli.mongoexport import check_mongoexport
from flagsvc.cli.render import print_json
from flagsvc.cli.terminal import say
from flagsvc.cli.usage import UsageError
from flagsvc.core.errors import short_repr
from flagsvc.core.flagd.writing import write
from flagsvc.core.lint import lint
from flagsvc.core.model import Flag
from flagsvc.core.validation import examined, invisible

_BEGINS_LIKE_FLAGD = re.compile(r'\s*\{\s*(?:"(?:flags|\$schema|\$evaluators|metadata)"\s*:|\}\s*$|$)')


def validate(args: argparse.Namespace) -> int:
    """Check files, or what a server or a store has, and print every problem; return 1 if there are any."""
    if not args.files:
        if not (args.store or args.address or args.profile):
            raise UsageError("name files, or what has the flags: --address, --profile or --store")
        from flagsvc.cli.transfer_targets import on_target  # noqa: PLC0415  files need no connection

        return on_target(args, lambda target: _report(args, "stored", _stored(target.flags([args.flag_set]))))
    valid = True
    for path in args.files:
        try:
            found = _checked(path)
        except BadFile as error:
            found = CheckedFile(violations=[Located(0, "$", str(error).removeprefix(f"{path}: "))])
        found.notes += [Located(1, "$", f"an import refuses this: {text}") for text in _invisible(found.flags)]
        valid = _report(args, path, found) == OK and valid
    return OK if valid else FAILED


def _report(args: argparse.Namespace, path: str, found: CheckedFile) -> int:
    if args.strict:
        found = _strict(found)
    if args.json:
        print_json({"file": path, "flags": len(found.flags), **_as_json(found)})
    else:
        _print_report(path, found)
    return FAILED if found.violations else OK


def _stored(flags: Sequence[Flag]) -> CheckedFile:
    """Return what is wrong, odd or doubtful in stored flags. A path is set and key, a line the place in the list."""
    result = CheckedFile(flags=list(flags))
    for number, flag in enumerate(sorted(flags, key=lambda flag: flag.id), start=1):
        where = f"{flag.flag_set}/{flag.key}"
        for violation in examined(flag)[1]:
            place = result.warnings if violation.is_odd else result.violations
            place.append(Located(number, where, str(violation)))
        result.notes += [Located(number, where, str(note)) for note in lint(flag)]
    return result


def read_flagd(path: str, raw: bytes, flag_set: str | None, *, strict: bool = False) -> list[Flag]:
    """Read a flagd file for an import. Raises BadFile with every violation; the rest goes to standard error.

    `strict`: a warning is a violation.
    """
    found = checked(path, raw, flag_set)
    if strict:
        found = _strict(found)
    if found.violations:
        raise BadFile.of(path, [f"{path}:{each}" for each in found.violations])
    if hidden := _invisible(found.flags):
        raise BadFile.of(path, hidden)
    for line in _remarks(path, found):
        say(line, error=True)
    return found.flags


def _strict(found: CheckedFile) -> CheckedFile:
    """Return the findings with warnings as violations."""
    return replace(found, violations=sorted(found.violations + found.warnings), warnings=[])


def is_flagd(path: str, raw: bytes) -> bool:
    """Whether a file is a flagd file, not mongoexport lines: by its name, else by its content."""
    if is_yaml(path):
        return True
    text = raw.decode("utf-8-sig", errors="replace")
    try:
        document, end = json.JSONDecoder().raw_decode(text, len(text) - len(text.lstrip()))
    except (ValueError, RecursionError):
        return _BEGINS_LIKE_FLAGD.match(text) is not None
    return isinstance(document, dict) and "flags" in document and "key" not in document and not text[end:].strip()


def flagd_text(flags: Sequence[Flag], flag_set: str, *, as_yaml: bool) -> str:
    """Write a set's flags as flagd's JSON or YAML. Raises InvalidRequest for flags that flagd cannot read."""
    document = write(flags, flag_set)
    if as_yaml:
        from flagsvc.adapters.files.yaml_text import write_yaml  # noqa: PLC0415

        return write_yaml(document)
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _invisible(flags: Sequence[Flag]) -> list[str]:
    """Return the problems of texts with invisible characters. Stored flags and file stores may have them."""
    return [f"flag {short_repr(flag.key)}: {violation}" for flag in flags for violation in invisible(flag)]


def _checked(path: str) -> CheckedFile:
    raw = read_bytes(path)
    if is_flagd(path, raw) or not raw.strip():
        return checked(path, raw)
    flags, problems, odd = check_mongoexport(raw)
    has_documents = b'"key"' in raw or b'"_id"' in raw  # Each flag document has a key.
    if problems and not flags and not has_documents:
        return checked(path, raw)
    return CheckedFile(flags, *([Located(line, "$", text) for line, text in each] for each in (problems, odd)))


def _print_report(path: str, found: CheckedFile) -> None:
    for violation in found.violations:
        say(f"{path}:{violation}")
    for line in _remarks(path, found):
        say(line)
    if not found.violations:
        count, odd = len(found.flags), len(found.warnings)
        warnings = f", with {odd} warning{'s' if odd != 1 else ''}" if odd else ""
        say(f"{path}: {count} flag{'s are' if count != 1 else ' is'} valid{warnings}")


def _remarks(path: str, found: CheckedFile) -> Iterator[str]:
    for word, located in (("warning", found.warnings), ("note", found.notes)):
        for each in located:
            yield f"{path}:{each.line}: {word}: {each.path}: {each.text}"


def _as_json(found: CheckedFile) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [{"line": each.line, "path": each.path, "text": each.text} for each in located]
        for name, located in (
            ("violations", found.violations),
            ("warnings", found.warnings),
            ("notes", found.notes),
        )
    }
