"""What keeps a local copy up to date, and waits for it, for asyncio and for threads."""
