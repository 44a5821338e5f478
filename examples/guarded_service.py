"""A gRPC service that is served only while a flag is on, and a caller that sees the flag go off and on again.

In one terminal: `make run`. In another: `.venv/bin/python examples/guarded_service.py [--target 127.0.0.1:8013]`.
It switches the flag `checkout-v2` itself, leaves it on, and exits.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

import grpc
from flagsvc_client import AsyncFlagClient
from flagsvc_client.errors import of_rpc_error
from flagsvc_client.guards.aio import FlagGuard

FLAG = "checkout-v2"
METHOD = "/shop.Checkout/Pay"


async def pay(request: bytes, _: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    """Handle a call; the guard checks the flag before the handler runs."""
    return b"paid " + request


async def call(channel: grpc.aio.Channel) -> str:
    """Call the service as any client would."""
    try:
        return bytes(await channel.unary_unary(METHOD)(b"10 EUR", timeout=2)).decode()
    except grpc.aio.AioRpcError as error:
        refusal = of_rpc_error(error)
        return f"{refusal.code.name}: {refusal.message} ({refusal.reason}, {dict(refusal.metadata)})"


async def main(target: str) -> None:
    """Serve, and call the service with the flag on, off and on."""
    async with AsyncFlagClient(target, local=True) as flags:
        if not await flags.wait_ready(5):
            sys.exit(f"no flags received from {target}: start the server with `make run`, or set --target")
        # The guard covers the whole service with one line. Its client evaluates locally, without a network call.
        server = grpc.aio.server(interceptors=[FlagGuard(flags, {"/shop.Checkout/*": FLAG})])
        handler = grpc.method_handlers_generic_handler(
            "shop.Checkout", {"Pay": grpc.unary_unary_rpc_method_handler(pay)}
        )
        server.add_generic_rpc_handlers((handler,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                for enabled in (True, False, True):
                    await flags.toggle(FLAG, enabled=enabled)
                    print(f"{FLAG} is {'on' if enabled else 'off'}: {await call(channel)}", flush=True)
        finally:
            await flags.toggle(FLAG, enabled=True)
            await server.stop(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="a guarded gRPC service and a caller")
    parser.add_argument(
        "--target", default="127.0.0.1:8013", help="address of the flag server; default: that of `make run`"
    )
    asyncio.run(main(parser.parse_args().target))
