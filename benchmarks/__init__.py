"""Measurements behind the figures in README.md."""
