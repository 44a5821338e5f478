"""What a flag is and what it evaluates to: pure functions over frozen data, no I/O, clock, proto or asyncio."""
