"""Who makes what at this moment: lock files in the run folder, shared by all processes of a run."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from t2i_backdoor_bench.store.atomic import storing
from t2i_backdoor_bench.store.guard import entries, inside

TOGETHER = "folder.lock"  # held by everybody who works in the folder


@dataclass
class Locks:
    """The locks of a run folder; `claimed` are those that this process has. `made`: the run folder
    is made for what this process works at."""

    folder: Path
    made: bool = False
    claimed: set[str] = field(default_factory=set)

    @contextmanager
    def claim(self, name: str, wait: bool = False) -> Iterator[bool]:
        """Whether this process alone may make `name` for the length of the block; with `wait`, it
        waits until it may. A claim inside one of the same name holds with it. A process that dies
        gives up its claims."""
        if name in self.claimed:
            yield True
            return
        path = inside(self.folder.parent, f"{self.folder.name}/{name.replace('/', '-')}.lock")
        lock = FileLock(path)
        try:
            with storing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            yield False
            return
        self.claimed.add(name)
        try:
            yield True
        finally:
            self.claimed.discard(name)
            lock.release()

    @contextmanager
    def working(self) -> Iterator[None]:
        """A block in which this process works in the folder, as others may: it waits while one of
        them has it `alone`. A file system without locks keeps nobody out."""
        with self._together(fcntl.LOCK_SH):
            yield

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether no other process works in the folder; none can begin while the block runs."""
        with self._together(fcntl.LOCK_EX | fcntl.LOCK_NB) as mine:
            yield mine and not any(self._held(path) for path in self._files())

    @contextmanager
    def _together(self, kind: int) -> Iterator[bool]:
        """The lock of the whole folder, shared or exclusive."""
        path = inside(self.folder.parent, f"{self.folder.name}/{TOGETHER}")
        mine = there = False
        while not there:
            with storing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                file = path.open("ab")
            # an error: somebody has it, or there are no locks here
            with contextlib.suppress(OSError):
                fcntl.flock(file, kind)
                mine = True
            # it may have been dropped before it was locked
            there = not mine or os.fstat(file.fileno()).st_nlink > 0
            if not there:
                file.close()
        with file:
            yield mine

    def _files(self) -> list[Path]:
        found = entries(self.folder.parent, self.folder.name)
        return [path for path in found if path.suffix == ".lock" and path.name != TOGETHER]

    def _held(self, path: Path) -> bool:
        try:
            with FileLock(path).acquire(timeout=0):
                return False
        except Timeout:
            return True

    def drop(self) -> None:
        """Remove the lock files that nobody holds; then the run folder, if it was made for this
        process and nothing lies in it: what was asked for was refused before any work."""
        inside(self.folder.parent, self.folder.name)
        for path in entries(self.folder.parent, self.folder.name):
            if path.suffix != ".lock":
                continue
            lock = FileLock(path)
            with contextlib.suppress(Timeout, OSError), lock.acquire(timeout=0):
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it has files
            self.folder.rmdir()
            if self.made:
                self.folder.parent.rmdir()
