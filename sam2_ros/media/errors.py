"""Errors that a user of the command line can cause and mend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Ends the command with ``str(error)`` on stderr and exit code 2; it says what is wrong and what is accepted."""


@contextmanager
def engine_errors() -> Iterator[None]:
    """Within, the errors of loading an engine are raised as a UserError."""
    try:
        yield
    except (ImportError, RuntimeError, ValueError, OSError) as error:
        raise UserError(str(error)) from error
