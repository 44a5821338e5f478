"""flagsvc: feature flag evaluation over gRPC, from Redis before MongoDB."""
