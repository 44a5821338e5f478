"""For tests of code that uses flags: clients without a server, and overrides. The engine is the server's own.

It needs the extra: `pip install "flagsvc-client[testing]"`. pytest finds its fixture `flagsvc_flags` by itself.
"""

from flagsvc_client.substitutes import StrictError

try:
    from flagsvc_client.testing.clients import AsyncInMemoryFlagClient, InMemoryFlagClient
    from flagsvc_client.testing.flags import InMemoryFlags
    from flagsvc_client.testing.overrides import override, use_flags
    from flagsvc_client.testing.sources import Source
except ImportError as error:
    message = f"flagsvc_client.testing needs {error.name}: pip install 'flagsvc-client[testing]'"
    raise ImportError(message, name=error.name) from None

__all__ = [
    "AsyncInMemoryFlagClient",
    "InMemoryFlagClient",
    "InMemoryFlags",
    "Source",
    "StrictError",
    "override",
    "use_flags",
]
