"""Entry point of the `flagsvc` command: runs one command and turns failures into a message and an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from flagsvc.cli.parser import build_parser
from flagsvc.cli.usage import UsageError
from flagsvc.core.errors import FlagsvcError, StoreUnavailable
from flagsvc.core.shown_text import visible
from flagsvc.urls import SettingsError, masked

NEWLINE = "\n"  # an error may have several lines


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    0: success. 1: the command failed. 2: wrong usage or settings. 3: the change is stored, but did not reach the
    level of --wait-for in time.
    """
    args = build_parser().parse_args(argv)
    try:
        return int(args.run(args))
    except (SettingsError, UsageError) as error:
        return _fail(error, 2)
    except StoreUnavailable as error:
        advice = f" ({error.cause}: {error.cure}; or run: flagsvc doctor)" if error.cure else ""
        return _fail(f"{error}{advice}", 1)
    except FlagsvcError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return 0 if args.command == "watch" else 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (UnicodeError, OverflowError, RecursionError, ValueError, OSError) as error:
        return _fail(f"an argument or file cannot be used ({type(error).__name__}: {masked(str(error))[:200]})", 2)


def _fail(error: Exception | str, status: int) -> int:
    print(f"error: {visible(str(error), NEWLINE)}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
