"""The one exception that says: your input, not our code."""


class InputError(ValueError):
    """Input that cannot be used: one sentence with what is wrong, where, and what to do."""
