"""Records what was done beside changes of flags, and what was refused.

To leave it out, delete this folder and the lines of `flagsvc/server.py` that use it. Changes of flags and of
tokens have their entries in any case.
"""
