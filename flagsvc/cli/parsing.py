"""How command lines are read: a parser of one command's arguments, and what it says about a slip."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from flagsvc.cli.terminal import width
from flagsvc.cli.usage import BadCommandLine, meant
from flagsvc.urls import masked


class Parser(argparse.ArgumentParser):
    """A parser whose errors repeat no URL, which may hold a password, and name what was most likely meant.

    `add_later` adds its arguments when they are first needed: a command line needs those of one command.
    """

    def __init__(self, *, add_later: Callable[[argparse.ArgumentParser], None] | None = None, **more: Any) -> None:
        super().__init__(**more)
        self._add_later = add_later
        self._words: Sequence[str] = ()

    def fill(self) -> None:
        """Add the arguments, if that was not done yet."""
        add, self._add_later = self._add_later, None
        if add is not None:
            add(self)

    def format_help(self) -> str:
        """Return the help."""
        self.fill()
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Raise BadCommandLine. A misspelled option is named, not the required one that it was meant to be."""
        if message.startswith("the following arguments are required"):
            for word in self._words:
                self._refuse_unknown(word)
        raise BadCommandLine(masked(message), self._short_usage())

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Read the arguments that this parser knows, and name the option that an unknown one looks like.

        FIELD=VALUE may stand behind an option too, which argparse does not allow where there may be none.
        """
        self.fill()
        self._words = args or ()
        known, unknown = super().parse_known_args(args, namespace)
        if isinstance(fields := getattr(known, "fields", None), list):
            fields += (late := [word for word in unknown if not word.startswith("-")])
            unknown = [word for word in unknown if word not in late]
        for word in unknown:
            self._refuse_unknown(word)
        return known, unknown

    def _refuse_unknown(self, word: str) -> None:
        """Raise BadCommandLine if a word is an option of another name than any of this parser, also if shortened."""
        name = word.partition("=")[0]
        if (
            len(name) > len("--")
            and name.startswith("--")
            and not any(each.startswith(name) for each in self._option_string_actions)
        ):
            near = meant(name, self._option_string_actions)
            raise BadCommandLine(f"unrecognized arguments: {masked(word)}{near}", self._short_usage())

    def _short_usage(self) -> str:
        usage = self._get_formatter()
        usage.add_usage(None, self._get_positional_actions(), [])
        return f"{usage.format_help().rstrip()}; options: {self.prog} --help"

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        near = meant(str(value), map(str, action.choices))
        if action.dest == "command":
            raise argparse.ArgumentError(None, f"unknown command {value!r}{near} (all of them: flagsvc help)")
        known = ", ".join(map(str, action.choices))
        raise argparse.ArgumentError(action, f"invalid choice: {value!r}{near} (choose from {known})")


def formatter(prog: str) -> argparse.HelpFormatter:
    """Return what prints a help that is as wide as the terminal."""
    return _Formatter(prog, width=width() - 2)


class _Formatter(argparse.HelpFormatter):
    """Wraps texts, but not those of several lines, as the examples are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)
