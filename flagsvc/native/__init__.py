"""The native transport of the gRPC port: HTTP/2 in Rust, hot evaluations in one thread, all else in grpc.aio.

Optional and experimental. It is wired in `server.py` by `native_of`, and nothing else knows of it.
"""
