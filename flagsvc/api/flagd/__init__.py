"""flagd's protocols: its evaluation services with their event streams, and its sync service."""
