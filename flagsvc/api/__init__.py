"""gRPC: handlers that unpack, call once, pack; and the one map from domain errors to google.rpc.Status."""
