"""The front of the gRPC port: tells HTTP/1.1 from HTTP/2, and passes the latter on to gRPC."""
