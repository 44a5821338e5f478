"""Planned changes of flags."""
