"""flagsvc.v1.FlagService over gRPC."""
