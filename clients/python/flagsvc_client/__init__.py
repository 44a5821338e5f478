"""The Python client of flagsvc."""
