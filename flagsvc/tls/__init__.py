"""TLS of every port: certificates that are replaced while the server runs, and handshakes before HTTP."""
