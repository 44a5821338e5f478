"""Reads listings page by page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

MAX_PAGE = 1_000
"""Entries that a server puts on one page at most."""


def pages(call: Callable[..., Any], request: Any, timeout_s: float) -> Iterator[Any]:
    """Yield the pages of a listing, from the first to the last. `request` asks for the first. Raises grpc.RpcError."""
    while True:
        page = call(request, timeout=timeout_s)
        yield page
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token
