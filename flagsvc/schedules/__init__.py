"""Planned changes of flags, on one replica.

To leave them out, delete this folder, `flagsvc/api/schedule_service`, and the lines of `flagsvc/replica.py` and
`flagsvc/grpc_listeners.py` that use them.
"""
