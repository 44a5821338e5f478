"""Exit codes of every command, in one table: `flagsvc help exit-codes` prints it, and docs/cli.md has it."""

from __future__ import annotations

from collections.abc import Mapping

OK = 0
FAILED = 1
USAGE = 2
NOT_REACHED = 3
INTERRUPTED = 130
EXIT_CODES: Mapping[int, str] = {
    OK: "success; `watch` ended by Ctrl-C",
    FAILED: "the call was refused or failed, or what was asked is not so: `health` is not SERVING, `status`, `verify`"
    " or `doctor` found a problem, `evaluate` has an error code, `validate` found mistakes, `diff` found differences",
    USAGE: "wrong usage: an argument, a setting, a profile or a file that cannot be used; nothing was sent",
    NOT_REACHED: "the change IS stored, but did not reach the level of --wait-for in time",
    INTERRUPTED: "Ctrl-C",
}
