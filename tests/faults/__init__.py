"""Real replicas, stores and clients under random faults; a checker decides from the record which promises were kept."""
