"""Errors that are shown to a user as one line."""

from __future__ import annotations


class UserError(Exception):
    """Something that the user can correct: one line says what is wrong and what to do. The command
    exits with status 2."""


class StorageError(UserError):
    """The run folder cannot be written: a full disk, a quota, a read-only folder. The run ends;
    finished cells stay."""


class Undeclared(PermissionError):
    """A defense accessed something that its `needs` does not list."""
