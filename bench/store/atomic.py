"""Files that are written whole or not at all, and errors of the disk in one line."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import Timeout
from safetensors import SafetensorError

from t2i_backdoor_bench.contract import StorageError
from t2i_backdoor_bench.store.guard import entries

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomic(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place: a reader sees the old
    file or the whole new one.

    Raises StorageError where the folder does not take it. The temporary file is locked as long as
    this process lives (`sweep_partials`).
    """
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = _open_partial(path)
        try:
            write(partial)
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            partial.chmod(0o644)
            partial.replace(path)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            os.close(handle)


def _open_partial(path: Path) -> tuple[int, Path]:
    """A new temporary file beside `path`, open and locked. A sweep may take it in the moment before
    the lock: then there is another."""
    while True:
        handle, name = tempfile.mkstemp(
            prefix=f".{path.name[:100]}.", suffix=".partial", dir=path.parent
        )
        # a file system without locks: then no sweep gets one either
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return handle, Path(name)
        os.close(handle)


def is_abandoned(path: Path) -> bool:
    """Whether nobody holds a temporary file: the process that wrote it is gone."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def sweep_partials(root: Path) -> int:
    """Remove the temporary files that killed processes left in a run folder, and say how many:
    those that nobody holds locked. Raises StorageError, before anything is removed, where the
    folder holds a link (`store.guard`)."""
    swept = 0
    left = [p for p in entries(root) if p.name.startswith(".") and p.name.endswith(".partial")]
    for path in left:
        # an error: it is gone, or a living process has it
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
            swept += 1
    return swept


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Raises StorageError, in one line, where the block finds that `path` cannot be written."""
    try:
        yield
    except Timeout:  # of a lock: an OSError that says nothing of the disk
        raise
    except (OSError, SafetensorError) as error:
        known = isinstance(error, OSError)
        why = (error.strerror if known else "") or str(error).splitlines()[0]
        full = (known and error.errno in FULL) or any(f"(os error {n})" in why for n in FULL)
        todo = (
            "free some space, and the same command goes on"
            if full
            else "make the folder writable, or choose another with --out"
        )
        raise StorageError(
            f"cannot write {path}: {why}; what was finished stays; {todo}"
        ) from error


def write_text(path: Path, text: str) -> None:
    write_atomic(path, lambda partial: partial.write_text(text, encoding="utf-8"))
