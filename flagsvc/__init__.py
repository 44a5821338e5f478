"""flagsvc: feature flag evaluation over gRPC, from Redis before MongoDB."""

__version__ = "0.1.0"
