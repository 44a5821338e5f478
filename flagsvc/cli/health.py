"""`flagsvc health`. It imports little: containers run it every few seconds.

The two messages of grpc.health.v1 have one field each, so they are read and written here: protobuf takes longer to
import than the whole call takes.
"""

from __future__ import annotations

import argparse
import os

import grpc

from flagsvc.cli.channels import find_server, open_channel
from flagsvc.cli.exit_codes import FAILED, OK
from flagsvc.cli.terminal import coloured, say
from flagsvc.cli.usage import UsageError

_CHECK = "/grpc.health.v1.Health/Check"
_STATES = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
_SERVICE, _STATUS = b"\x0a", b"\x08"
"""Tags of the only fields: the request's `service`, a text, and the response's `status`, a number."""
_MAX_BYTES = 127
"""Bytes of a service's name: a longer one has a length of two bytes. No service has such a name."""


def health(args: argparse.Namespace) -> int:
    """Call grpc.health.v1; exit status 0 only for SERVING."""
    name = args.service.encode()
    if len(name) > _MAX_BYTES:
        raise UsageError(f"--service has {len(name)} bytes; it must have at most {_MAX_BYTES}")
    find_server(args, os.environ)
    with open_channel(args.address, proxy=False, tls=args.encryption) as channel:
        try:
            check = channel.unary_unary(_CHECK, request_serializer=bytes, response_deserializer=bytes)
            response = check(_request(name), timeout=args.timeout)
        except grpc.RpcError as error:
            if (served := _although_expired(error, args, name)) is not None:
                return _shown(args, _state(served))
            from flagsvc.cli.calls import print_error  # noqa: PLC0415  a healthy server's answer needs none of it

            print_error(error, args)
            return FAILED
    return _shown(args, _state(response))


def _although_expired(error: grpc.RpcError, args: argparse.Namespace, name: bytes) -> bytes | None:
    """Return what the own server of this machine answers if only the time of its certificate is wrong, and warn."""
    from flagsvc.cli.tls import not_valid_now  # noqa: PLC0415  as above

    why = not_valid_now(str(error.details() if isinstance(error, grpc.Call) else error))
    if why is None or args.encryption is None or not args.encryption.is_own:
        return None
    from flagsvc.cli.expired_health import checked  # noqa: PLC0415  only this needs it

    try:
        found = checked(args.address, _CHECK, _request(name), args.timeout)
    except OSError:
        return None
    say(f"warning: {why}; clients that verify it cannot connect", error=True)
    return found


def _shown(args: argparse.Namespace, state: str) -> int:
    """Print a status, and return the exit status."""
    if args.json:
        from flagsvc.cli.render import print_json  # noqa: PLC0415

        print_json({"service": args.service, "status": state})
    else:
        print(coloured(state))
    return OK if state == "SERVING" else FAILED


def _request(service: bytes) -> bytes:
    return _SERVICE + bytes([len(service)]) + service if service else b""


def _state(response: bytes) -> str:
    """Return the name of a response's status. What no server of this version sends is UNKNOWN."""
    number = response[1] if len(response) == len(_STATUS) + 1 and response.startswith(_STATUS) else 0
    return _STATES[number] if number < len(_STATES) else _STATES[0]
