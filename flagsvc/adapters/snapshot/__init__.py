"""The snapshot file on this replica's disk."""
