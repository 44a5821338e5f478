"""How each form of the client reaches the server. `aio` and `sync` offer the same, for event loops and for threads."""
