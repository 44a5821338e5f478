"""Guards: they let a call pass only while a flag is on.

`flagsvc_client.guards.aio` and `flagsvc_client.guards.sync` have the server interceptor `FlagGuard` for gRPC services,
`flagsvc_client.guards.calling` has client interceptors that refuse a call before it is sent, and
`flagsvc_client.guards.asgi` has a dependency for FastAPI and Starlette. `require_feature` guards any function.
"""

from flagsvc_client.guards.require import require_feature
from flagsvc_client.guards.rules import (
    FeatureCheckFailed,
    FeatureDisabled,
    Refusal,
    Rule,
    Rules,
    context_of_metadata,
)

__all__ = [
    "FeatureCheckFailed",
    "FeatureDisabled",
    "Refusal",
    "Rule",
    "Rules",
    "context_of_metadata",
    "require_feature",
]
