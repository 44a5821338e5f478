"""Profiles: named servers with their token file, flag set and TLS; and which of them a command uses.

They are kept in one JSON file of the user. It names files of tokens and keys, and has no secret in it.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

from flagsvc.cli.options import TLS_OPTIONS
from flagsvc.cli.terminal import say
from flagsvc.cli.usage import UsageError, meant

FIELDS: Mapping[str, str] = {
    "address": "FLAGSVC_ADDRESS",
    "token_file": "FLAGSVC_TOKEN_FILE",
    "flag_set": "FLAGSVC_FLAG_SET",
    **{option.removeprefix("--").replace("-", "_"): name for option, (name, _) in TLS_OPTIONS.items()},
}
"""Field of a profile -> the variable that it stands for."""
_NONE: dict[str, Any] = {"current": None, "profiles": {}}
_SECRETS = ("FLAGSVC_TOKEN", "FLAGSVC_PLAINTEXT_TOKEN")


def path(environ: Mapping[str, str]) -> Path | None:
    """Return the file of profiles; None for a user without a home, as in many containers."""
    if named := environ.get("FLAGSVC_PROFILES_FILE"):
        return Path(named)
    home = environ.get("HOME")
    base = environ.get("XDG_CONFIG_HOME") or (home and f"{home}/.config")
    return Path(base) / "flagsvc" / "profiles.json" if base else None


def load(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return `{"current": NAME or None, "profiles": {NAME: {FIELD: TEXT}}}`. Raises UsageError.

    A file that this user cannot reach is none: a health check may run as another user than the one whose home it has.
    """
    file = path(environ)
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file else _NONE
        return {"current": content["current"], "profiles": {k: dict(v) for k, v in content["profiles"].items()}}
    except OSError:
        return {"current": None, "profiles": {}}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{file}: no file of profiles ({type(error).__name__}); correct or remove it") from None


def save(environ: Mapping[str, str], content: Mapping[str, Any]) -> None:
    """Replace the file of profiles atomically. Raises UsageError without a place for it, and OSError."""
    file = path(environ)
    if file is None:
        raise UsageError("there is no place for profiles; set HOME or FLAGSVC_PROFILES_FILE")
    import tempfile  # noqa: PLC0415  only what writes the file needs it

    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False, encoding="utf-8") as part:
        json.dump(content, part, indent=2)
        part.write("\n")
    Path(part.name).replace(file)


def apply(args: argparse.Namespace, environ: MutableMapping[str, str]) -> None:
    """Put a profile in the place of the environment's variables, and the default flag set into the arguments.

    A profile counts as a whole: its token goes to its own address only, and with it no other token.
    """
    if hasattr(args, "profile") and (name := _wanted(args, environ)):
        known = load(environ)["profiles"]
        if name not in known:
            raise UsageError(f"there is no profile {name!r}{meant(name, known)}; list them with: flagsvc profile list")
        for variable in (*FIELDS.values(), *_SECRETS):
            environ.pop(variable, None)
        environ.update({FIELDS[field]: text for field, text in known[name].items() if field in FIELDS})
    if getattr(args, "needs_set", False) and args.flag_set is None:
        args.flag_set = environ.get("FLAGSVC_FLAG_SET", "").strip() or "default"


def _wanted(args: argparse.Namespace, environ: Mapping[str, str]) -> str:
    """Return the profile that was asked for, or the current one where nothing else names a server."""
    named = str(args.profile or environ.get("FLAGSVC_PROFILE", "")).strip()
    elsewhere = args.address or getattr(args, "port", None) is not None or getattr(args, "store", None) is not None
    if args.profile and elsewhere:
        raise UsageError("--profile names a server already; leave out --address, --port and --store")
    if elsewhere or (not named and _names_a_server(environ)):
        return ""
    return named or str(load(environ)["current"] or "")


def _names_a_server(environ: Mapping[str, str]) -> bool:
    return any(environ.get(name) for name in ("FLAGSVC_ADDRESS", "FLAGSVC_HOST", "FLAGSVC_PORT"))


def add(args: argparse.Namespace) -> int:
    """Add or replace a profile; the first one becomes the current one."""
    content = load(os.environ)
    fields = {name: str(value) for name in FIELDS if (value := getattr(args, name))}
    for name in ("token_file", "tls_ca", "tls_client_cert", "tls_client_key"):
        if name in fields:
            fields[name] = os.path.abspath(Path(fields[name]).expanduser())  # noqa: PTH100  a link, as Kubernetes makes them, stays one
    if "tls" in fields:
        fields["tls"] = "true"
    known = args.name in content["profiles"]
    content["profiles"][args.name] = fields
    content["current"] = args.name if args.use else content["current"] or args.name
    save(os.environ, content)
    now = f"; current is {content['current']}"
    say(f"profile {args.name} {'replaced' if known else 'added'}{now}")
    return 0


def use(args: argparse.Namespace) -> int:
    """Make a profile the current one."""
    content = _with(args.name)
    content["current"] = args.name
    save(os.environ, content)
    say(f"current profile: {args.name} ({content['profiles'][args.name]['address']})")
    return 0


def remove(args: argparse.Namespace) -> int:
    """Remove a profile; nothing is current any more if it was."""
    content = _with(args.name)
    del content["profiles"][args.name]
    content["current"] = None if content["current"] == args.name else content["current"]
    save(os.environ, content)
    say(f"profile {args.name} removed; the files that it named are where they were")
    return 0


def show(args: argparse.Namespace) -> int:
    """List the profiles."""
    from flagsvc.cli.render import print_json  # noqa: PLC0415
    from flagsvc.cli.tables import Column, print_table  # noqa: PLC0415

    content = load(os.environ)
    if args.json:
        print_json(content)
        return 0
    columns = (Column("name"), Column("current", 1), Column("address"), Column("flag set", 2), Column("CA", 3))
    names = ("address", "flag_set", "tls_ca", "token_file")
    rows = [
        [name, "yes" if name == content["current"] else None, *map(each.get, names)]
        for name, each in sorted(content["profiles"].items())
    ]
    hint = "no profiles; add one with: flagsvc profile add NAME --address HOST:PORT"
    print_table((*columns, Column("token file", 4)), rows, hint)
    return 0


def _with(name: str) -> dict[str, Any]:
    content = load(os.environ)
    if name not in content["profiles"]:
        raise UsageError(f"there is no profile {name!r}{meant(name, content['profiles'])}")
    return content
