"""Reads and writes of definitions, for asyncio and for threads."""
