"""The flag model and its evaluation: pure functions over frozen data, without I/O, clock, protobuf or asyncio."""
