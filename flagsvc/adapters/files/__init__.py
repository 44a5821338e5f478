"""flagd's files: their texts with the line of everything, checked, and served as a store."""
