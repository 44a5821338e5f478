"""Revisions: every definition that a flag had, when it had it, and what answers as of another moment."""
