"""Rate limits for each caller and class of calls, shared by all replicas. No call waits for Redis.

To remove them, delete this folder and the lines of `flagsvc/server.py` that use it.
"""
