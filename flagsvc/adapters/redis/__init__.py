"""The shared cache and its channel on Redis."""
