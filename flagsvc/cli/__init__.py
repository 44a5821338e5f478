"""The command line: `serve`, and the commands that operators run against a server or a store."""
