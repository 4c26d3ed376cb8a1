"""Who makes what at this moment: lock files in the run folder, shared by all processes of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from t2i_backdoor_bench.store.atomic import storing
from t2i_backdoor_bench.store.guard import entries, inside


@dataclass
class Locks:
    """The locks of a run folder; `claimed` are those that this process has."""

    folder: Path
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
                path.parent.mkdir(exist_ok=True)
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

    def drop(self) -> None:
        """Remove the lock files that nobody holds."""
        inside(self.folder.parent, self.folder.name)
        for path in entries(self.folder.parent, self.folder.name):
            if path.suffix != ".lock":
                continue
            lock = FileLock(path)
            with contextlib.suppress(Timeout, OSError), lock.acquire(timeout=0):
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()
