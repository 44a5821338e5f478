"""The tokens as this replica holds them, who a caller is, and the end of what revoked callers have open."""
