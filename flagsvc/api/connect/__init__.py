"""Connect and gRPC-Web over HTTP/1.1: the handlers of the gRPC services, called through a context of their own."""
