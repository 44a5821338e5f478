"""A worker that stops as soon as its flag goes off: it watches the flags and makes no calls while it works.

In one terminal: `make run`. In another: `.venv/bin/python examples/kill_switch.py [--target 127.0.0.1:8013]`.
In a third: `.venv/bin/flagsvc toggle checkout-v2 off`. Ctrl-C stops it too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib

from flagsvc_client import AsyncFlagClient, Change

FLAG = "checkout-v2"


async def work() -> None:
    """Work in small steps, until cancelled."""
    step = 0
    try:
        while True:
            step += 1
            print(f"step {step}", flush=True)
            await asyncio.sleep(0.5)
    finally:
        print(f"stopped after step {step}: clean up here", flush=True)


async def until_off(flags: AsyncFlagClient) -> None:
    """Return when the flag is off. The watch resumes automatically after the server was unreachable."""
    async for message in flags.watch():
        revision = 0
        if isinstance(message, Change):
            if message.key != FLAG:
                continue
            revision = message.revision
        if not await flags.is_enabled(FLAG, default=True, min_revision=revision):
            return


async def main(target: str) -> None:
    """Work while the flag is on, and also while the server is unreachable: the default is True."""
    async with AsyncFlagClient(target) as flags:
        worker = asyncio.create_task(work())
        try:
            await until_off(flags)
            print(f"{FLAG} is off", flush=True)
        finally:
            worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await worker


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="a worker with a kill switch")
    parser.add_argument(
        "--target", default="127.0.0.1:8013", help="address of the flag server; default: that of `make run`"
    )
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(parser.parse_args().target))
