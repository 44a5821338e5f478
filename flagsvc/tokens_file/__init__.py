"""A file of tokens, as hashes, beside those of the store, or in place of a store that keeps none.

To leave it out, delete this folder and the lines of `flagsvc/server.py` and `flagsvc/cli` that use it.
"""
