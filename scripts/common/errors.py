"""The one exception for what the user can mend."""


class UserError(Exception):
    """A mistake in the user's input: one line that says what, where and what to do. Exit code 2, no traceback."""
