"""The exceptions of the package that have no other place."""


class InputError(ValueError):
    """Raised for input that cannot be used; the message says what is wrong, where, and what to do about it."""


class LostProcessError(RuntimeError):
    """Raised if another of the processes that train together has ended or cannot be reached."""
