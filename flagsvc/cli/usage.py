"""The error of wrong command-line usage."""


class UsageError(ValueError):
    """An argument is wrong; the text says what is expected."""
