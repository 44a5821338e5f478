"""The process of `flagsvc` and `python -m flagsvc`: handles signals before it imports what takes time.

A process 1, as in a container, is not ended by a signal that it does not handle. For Ctrl-C, Python has a handler.
"""

from __future__ import annotations

import os
import signal
import sys

from flagsvc.signals import exit_at_once_on


def main() -> int:
    """Run the command line; return its exit status."""
    exit_at_once_on(signal.SIGTERM)
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # else it writes a line of its own for each failed TLS handshake
    try:
        from flagsvc.cli.main import main as run_command  # noqa: PLC0415  signals are handled first

        return run_command()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
