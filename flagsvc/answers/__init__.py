"""Whole answers to calls about many flags, remembered as long as what they were made of is held."""
