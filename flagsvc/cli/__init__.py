"""The command line: serve, and everything an operator asks a running server or a store."""
