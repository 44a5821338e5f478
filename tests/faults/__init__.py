"""Real replicas, stores and clients under random faults; from the record a checker decides what was kept."""
