"""The exception for unusable input."""


class InputError(ValueError):
    """Raised for input that cannot be used; the message says what is wrong, where, and what to do about it."""
