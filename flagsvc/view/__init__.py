"""What this replica knows of the flags: held entries, the near cache, and each flag set's recent changes."""
