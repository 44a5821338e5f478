"""Wrong usage of the command line."""


class UsageError(ValueError):
    """An argument is wrong; the text says what would be right."""
