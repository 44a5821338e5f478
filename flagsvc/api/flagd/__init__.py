"""flagd's protocols: its evaluation services with their events, and its sync service."""
