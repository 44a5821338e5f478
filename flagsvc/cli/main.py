"""Entry point of the `flagsvc` command: runs one command and turns failures into a message and an exit status."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from contextvars import copy_context

from flagsvc.cli import profiles, terminal
from flagsvc.cli.exit_codes import FAILED, INTERRUPTED, OK, USAGE
from flagsvc.cli.failures import print_error
from flagsvc.cli.parser import build_parser
from flagsvc.cli.usage import BadCommandLine, UsageError
from flagsvc.core.errors import FlagsvcError, StoreUnavailable
from flagsvc.urls import SettingsError, masked


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: one of `exit_codes`. The form that it chooses ends with it."""
    return copy_context().run(_main, list(sys.argv[1:] if argv is None else argv))


def _main(words: list[str]) -> int:
    terminal.choose(_form_in(words))
    parser = build_parser()
    if "_ARGCOMPLETE" in os.environ:
        from flagsvc.cli.completion import complete  # noqa: PLC0415  only a shell that completes needs it

        complete(parser)
    try:
        args = parser.parse_args(words or ["help"])
        terminal.choose(getattr(args, "form", None))
        return _run(args)
    except BadCommandLine as error:
        if terminal.form() is not terminal.Form.JSON:
            terminal.say(error.usage, error=True)
        return _fail(error, USAGE)


def _run(args: argparse.Namespace) -> int:
    try:
        profiles.apply(args, os.environ)
        return int(args.run(args))
    except (SettingsError, UsageError) as error:
        return _fail(error, USAGE)
    except StoreUnavailable as error:
        advice = f" ({error.cause}: {error.cure}; or run: flagsvc doctor)" if error.cure else ""
        return _fail(f"{error}{advice}", FAILED, _code_of(error))
    except FlagsvcError as error:
        return _fail(error, FAILED, _code_of(error))
    except KeyboardInterrupt:
        return OK if args.command == "watch" else INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except (UnicodeError, OverflowError, RecursionError, ValueError, OSError) as error:
        what = f"an argument or file cannot be used ({type(error).__name__}: {masked(str(error))[:200]})"
        return _fail(what, USAGE)


def _form_in(words: Sequence[str]) -> str | None:
    """Return the form for errors of a command line that the parser cannot read."""
    asks_json = "--json" in words or any(f"-o{form}" in "".join(words) for form in ("json", "yaml"))
    return terminal.Form.JSON if asks_json else None


def _code_of(error: FlagsvcError) -> str:
    """Return the reason of an error of this process as a word, such as INVALID_FLAG."""
    named = getattr(error, "reason", "")
    return named if named.isupper() else re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).upper()


def _fail(error: Exception | str, status: int, code: str = "USAGE") -> int:
    print_error(str(error), code=code, exit_code=status)
    return status


if __name__ == "__main__":
    sys.exit(main())
