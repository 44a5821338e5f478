"""flagd's flag files: parsing with line numbers, validation, and a read-only store that serves them."""
