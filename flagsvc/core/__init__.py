"""The flag model, its validation and its evaluation: pure functions over frozen data.

Nothing here does I/O, reads a clock, or imports protobuf or asyncio. The Python client uses this package as its engine.
"""
