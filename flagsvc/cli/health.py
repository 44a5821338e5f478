"""`flagsvc health`. It imports little: containers run it every few seconds."""

from __future__ import annotations

import argparse
import os

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from flagsvc.cli.channels import find_server, open_channel
from flagsvc.cli.exit_codes import FAILED, OK
from flagsvc.cli.terminal import coloured


def health(args: argparse.Namespace) -> int:
    """Call grpc.health.v1; exit status 0 only for SERVING."""
    find_server(args, os.environ)
    with open_channel(args.address, proxy=False, tls=args.encryption) as channel:
        try:
            request = health_pb2.HealthCheckRequest(service=args.service)
            response = health_pb2_grpc.HealthStub(channel).Check(request, timeout=args.timeout)
        except grpc.RpcError as error:
            from flagsvc.cli.calls import print_error  # noqa: PLC0415  a healthy server's answer needs none of it

            print_error(error, args)
            return FAILED
    state = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
    if args.json:
        from flagsvc.cli.render import print_json  # noqa: PLC0415

        print_json({"service": args.service, "status": state})
    else:
        print(coloured(state))
    return OK if response.status == health_pb2.HealthCheckResponse.SERVING else FAILED
