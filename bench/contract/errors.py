"""Errors that are shown to a user as one line."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Something that the user can correct: one line says what is wrong and what to do. The command
    exits with status 2."""


class StorageError(UserError):
    """The run folder cannot be written: a full disk, a quota, a read-only folder. The run ends;
    finished cells stay."""


class Undeclared(PermissionError):
    """A defense accessed something that its `needs` does not list."""


@contextmanager
def no_exit() -> Iterator[None]:
    """Raises UserError where the block ends the program with sys.exit, as a method of others may:
    its status, which may be 0, would pass for that of the run."""
    try:
        yield
    except SystemExit as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"the run was ended by sys.exit({error.code!r}) in {last.filename}, line {last.lineno}:"
            " a method may raise an error, and not end the program; repair or leave out this one"
        ) from error
