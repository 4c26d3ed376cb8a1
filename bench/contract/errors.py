"""What goes wrong for a user, in one line each."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend: one line that says what is wrong and what to do. The command
    exits with status 2."""


class StorageError(UserError):
    """The run folder takes no more: a full disk, a quota, a read-only folder. The run ends; what
    was finished stays."""


class Undeclared(PermissionError):
    """A defense read something that its `needs` does not declare."""
