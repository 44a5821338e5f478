"""A FastAPI backend: one route that is served only while a flag is on, and one that returns a flag's value.

In one terminal: `make run`. In another: `.venv/bin/python examples/fastapi_backend.py [--target 127.0.0.1:8013]`.
In a third: `curl -i localhost:8080/checkout`, then `.venv/bin/flagsvc toggle checkout-v2 off`, and curl again.
Ctrl-C stops it. Needs `pip install fastapi uvicorn "flagsvc-client[local]"`.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import Depends, FastAPI
from flagsvc_client import AsyncFlagClient
from flagsvc_client.guards.asgi import FeatureRefused, RequireFeature, feature_refused
from starlette.requests import HTTPConnection


def who(request: HTTPConnection) -> dict[str, str]:
    """Return the evaluation context; a real backend takes it from the authenticated user."""
    return {"targetingKey": request.headers.get("x-user", "anonymous")}


def backend(target: str) -> FastAPI:
    """Return the application, with one client for its lifetime."""
    flags = AsyncFlagClient(target, local=True, wait_ready_s=5)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with flags:
            yield

    app = FastAPI(lifespan=lifespan, exception_handlers={FeatureRefused: feature_refused})

    @app.get("/checkout", dependencies=[Depends(RequireFeature(flags, "checkout-v2", context_of=who))])
    async def checkout() -> dict[str, str]:
        return {"checkout": "the new one"}

    @app.get("/banner")
    async def banner() -> dict[str, str]:
        return {"banner": await flags.get_str("banner-text", default="Hello")}

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="a FastAPI backend with feature flags")
    parser.add_argument(
        "--target", default="127.0.0.1:8013", help="address of the flag server; default: that of `make run`"
    )
    parser.add_argument("--port", type=int, default=8080, help="HTTP port; default: 8080")
    options = parser.parse_args()
    uvicorn.run(backend(options.target), host="127.0.0.1", port=options.port)
