"""What a user of the command line can cause."""

from __future__ import annotations


class UserError(Exception):
    """Ends the command with ``str(error)`` on stderr and exit code 2; it says what is wrong and what is accepted."""
