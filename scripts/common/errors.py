"""The one exception for what the user can mend, and how its message quotes a value, or another message."""

from __future__ import annotations

from typing import Any


class UserError(Exception):
    """A mistake in the user's input: one line that says what, where and what to do. Exit code 2, no traceback."""


def shown(value: Any) -> str:
    """A value as it may stand in a message: quoted, on one line, not long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def one_line(message: object) -> str:
    """The start of what another library says, without line breaks; of an exception that says nothing, its kind."""
    text = " ".join(str(message).split())[:300]
    return text or (type(message).__name__ if isinstance(message, BaseException) else "")
