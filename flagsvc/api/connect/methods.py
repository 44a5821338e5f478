"""The methods that are served, with the classes of their messages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass


@dataclass(frozen=True, slots=True)
class Method:
    """One method: its path, the classes of its messages, and whether its answers are a stream."""

    path: str
    request: type[Message]
    response: type[Message]
    streams: bool


def methods_of(files: Iterable[Any]) -> dict[str, Method]:
    """Return the methods of all services in some files' descriptors, by path."""
    services = [service for file in files for service in file.services_by_name.values()]
    methods = [
        Method(
            f"/{service.full_name}/{method.name}",
            GetMessageClass(method.input_type),
            GetMessageClass(method.output_type),
            method.server_streaming,
        )
        for service in services
        for method in service.methods
        if not method.client_streaming
    ]
    return {method.path: method for method in methods}
