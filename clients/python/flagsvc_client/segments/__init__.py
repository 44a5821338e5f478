"""Segments: named rules of a flag set that its flags share."""
