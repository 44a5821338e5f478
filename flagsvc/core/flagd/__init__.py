"""flagd's flag configuration: read into flags, written from them, merged into stored ones."""
