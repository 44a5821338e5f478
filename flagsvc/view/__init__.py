"""What this replica knows: held entries, the near cache, each flag set's recent changes."""
