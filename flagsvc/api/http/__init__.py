"""What the protocols over HTTP/1.1 share: the server, its limits on connections, and the reading of bodies."""
