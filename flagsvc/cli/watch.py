"""`flagsvc watch`: a flag set, and then what changed in it, by whom and why, until Ctrl-C."""

from __future__ import annotations

import argparse
import random
import sys
import time
from typing import Any

import grpc

from flagsvc.api.flag_service.flag_messages import received
from flagsvc.cli import entries, render, times
from flagsvc.cli.calls import Stub
from flagsvc.cli.history import flag_history
from flagsvc.cli.terminal import is_terminal, say
from flagsvc.core.documents import to_document
from flagsvc.core.model import Flag
from flagsvc.generated.flagsvc.v1 import flag_service_pb2 as pb

_LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
_HISTORY_S = 1.0
"""Seconds to wait for who made a change, and why. The change itself is shown without, if that takes longer."""
_AUTHOR = ("action", "actor", "onBehalfOf", "reason")
_LAST = 20
"""Changes of one flag among which its author is looked for."""


def watch(args: argparse.Namespace, stub: Stub) -> int:
    """Print a set and then every change until interrupted; reconnects and resumes automatically."""
    watched = _Watched(args, stub)
    pause = 0.2
    lost_at: float | None = None
    while True:
        try:
            request = pb.WatchFlagsRequest(flag_set=args.flag_set, resume_revision=watched.resume)
            for message in stub.WatchFlags(request):
                if lost_at is not None:
                    away = f"{time.monotonic() - lost_at:.0f} s"
                    _note(f"connected to {args.address} again after {away}; what changed meanwhile follows")
                pause, lost_at = 0.2, None
                watched.take(message)
        except grpc.RpcError as error:
            if error.code() not in _LOST:
                raise
            if lost_at is None:
                known = "connection to" if watched.resume else "no connection to"
                lost = "lost; reconnecting" if watched.resume else "yet; trying again"
                _note(f"{known} {args.address} {lost} (Ctrl-C ends it)")
                lost_at = time.monotonic()
        time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  jitter needs no cryptographic randomness
        pause = min(pause * 2, 10.0)


class _Watched:
    """A flag set as it was last seen."""

    def __init__(self, args: argparse.Namespace, stub: Stub) -> None:
        self.resume = 0
        self._args, self._stub = args, stub
        self._flags: dict[str, Flag] = {}
        self._asks_history = True

    def take(self, message: pb.WatchFlagsResponse) -> None:
        """Print what a message brings."""
        is_first = self.resume == 0
        self.resume = message.resume_revision or self.resume
        if message.HasField("snapshot"):
            self._snapshot([received(flag) for flag in message.snapshot.flags], is_first=is_first)
        elif message.HasField("change"):
            change = message.change
            flag = received(change.flag) if change.HasField("flag") else None
            self._change(change.flag_key, flag, change.revision)

    def _snapshot(self, flags: list[Flag], *, is_first: bool) -> None:
        if self._args.json:
            shown = [render.flag_fields(flag) for flag in flags]
            render.print_json({"type": "snapshot", "flags": shown, "resumeRevision": self.resume})
            self._flags = {flag.key: flag for flag in flags}
            return
        count = "1 flag" if len(flags) == 1 else f"{len(flags)} flags"
        say(f"{count} at revision {self.resume}", error=not is_terminal())
        now = {flag.key: flag for flag in flags}
        if not is_first:
            for key in {**self._flags, **now}:
                old, new = self._flags.get(key), now.get(key)
                if (old and old.revision) != (new and new.revision):
                    self._change(key, new, new.revision if new else self.resume)
        self._flags = now

    def _change(self, key: str, flag: Flag | None, revision: int) -> None:
        before = self._flags.pop(key, None)
        if flag is not None:
            self._flags[key] = flag
        author = self._author(key, revision)
        if self._args.json:
            payload: dict[str, Any] = {"type": "change", "flagKey": key, "revision": revision}
            payload["flag"] = render.flag_fields(flag) if flag else None
            render.print_json(payload | {name: author[name] for name in _AUTHOR if name in author})
            return
        action = author.get("action") or ("DELETED" if flag is None else "UPDATED" if before else "CREATED")
        entry: entries.Entry = dict(author)
        entry |= {"flagKey": key, "action": action, "revision": revision}
        if flag is not None and before is not None:
            entry |= {"previousValue": to_document(before), "newValue": to_document(flag)}
        elif flag is not None and "newValue" not in author:
            entry |= {"newValue": {"status": flag.status.value}}
        if is_terminal():
            entries.print_entry(entry, at=times.now().strftime("%H:%M:%SZ"))
        else:
            state = flag.status.value if flag else "deleted"
            cells = (times.iso(times.now()), key, state, revision, author.get("actor"), author.get("reason"))
            print("\t".join(map(render.text, cells)), flush=True)

    def _author(self, key: str, revision: int) -> entries.Entry:
        """Return the history entry of a change; empty where the server does not let this caller see it."""
        if not self._asks_history:
            return {}
        try:
            found = flag_history(self._stub, key, self._args.flag_set, _LAST, _HISTORY_S)
        except grpc.RpcError as error:
            self._asks_history = error.code() in (*_LOST, grpc.StatusCode.DEADLINE_EXCEEDED)
            return {}
        return next((each for each in found if each["revision"] == revision), {})


def _note(text: str) -> None:
    say(text, error=True)
    sys.stdout.flush()
