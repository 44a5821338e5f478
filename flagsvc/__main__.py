"""The process of `flagsvc` and `python -m flagsvc`: handles signals before it imports what takes time.

As PID 1 of a container, a process is not ended by a signal that it does not handle.
"""

from __future__ import annotations

import signal
import sys

from flagsvc.signals import STOP, exit_at_once_on


def main() -> int:
    """Run the command line; return its exit status."""
    exit_at_once_on(*STOP)
    from flagsvc.cli.main import main as run_command  # noqa: PLC0415  signals are handled first

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a command ends on Ctrl-C in its own way
    return run_command()


if __name__ == "__main__":
    sys.exit(main())
