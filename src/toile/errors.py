"""The one family of errors that a person can cause and mend."""

from __future__ import annotations


class ToileError(ValueError):
    """Wrong input: the message says what was given, what is allowed and what to do.

    Front ends print it as one line and exit with code 2; nothing on disk has changed.
    """


class WorkFailedError(ToileError):
    """The input was right, but the work came to nothing: front ends exit with code 1."""
