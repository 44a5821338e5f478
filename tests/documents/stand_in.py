"""`flagsvc` as a program on PATH whose runs are forks of a process that has imported it: a tenth of a start's CPU.

The program is a few lines. It hands its arguments, environment, folder and open files to the process of the tests,
whose fork server makes the fork. From `flagsvc.__main__.main` on, all happens as in a process of its own.
"""

from __future__ import annotations

import marshal
import os
import signal
import socket
import sys
from pathlib import Path
from threading import Thread
from typing import Self

from flagsvc.__main__ import main
from tests import forks

_PROGRAM = """#!{python} -SIE
import _socket, marshal, os, signal, sys
link = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
link.connect({address!r})
files = b"".join(number.to_bytes(4, sys.byteorder) for number in range(3))
message = marshal.dumps((sys.argv[1:], dict(os.environ), os.getcwd()))
link.sendmsg([message], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, files)])
process = int.from_bytes(link.recv(4), "big")
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: os.kill(process, number))
status = link.recv(1)
os._exit(status[0] if status else 70)
"""
_LARGEST = 100_000


class StandIn:
    """`with StandIn(folder)`: the folder has a program `flagsvc`."""

    def __init__(self, folder: Path) -> None:
        self._address = str(folder / ".flagsvc.sock")
        self._listener = socket.socket(socket.AF_UNIX)
        self._processes: list[forks.context.Process] = []
        program = folder / "flagsvc"
        program.write_text(_PROGRAM.format(python=sys.executable, address=self._address))
        program.chmod(0o755)

    def __enter__(self) -> Self:
        self._listener.bind(self._address)
        self._listener.listen()
        Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # which ends `accept`
        self._listener.close()
        for process in self._processes:
            process.kill()
            process.join()

    def _serve(self) -> None:
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            with link:
                process = forks.context.Process(target=_run, args=(link,), daemon=True)
                process.start()
            self._processes.append(process)


def _run(link: socket.socket) -> None:
    """Become `flagsvc`, in the forked process."""
    message, files, _, _ = socket.recv_fds(link, _LARGEST, 3)
    arguments, environment, folder = marshal.loads(message)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["flagsvc", *arguments]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)
    link.sendall(os.getpid().to_bytes(4, "big"))
    try:
        status = main()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else bool(ended.code)
    sys.stdout.flush()
    sys.stderr.flush()
    link.sendall(bytes([status & 255]))
    os._exit(status)
