"""Who makes what at this moment: lock files in the run folder, shared by all processes of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from t2i_backdoor_bench.store.atomic import storing


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
        lock = FileLock(self.folder / f"{name.replace('/', '-')}.lock")
        try:
            with storing(Path(lock.lock_file)):
                Path(lock.lock_file).parent.mkdir(exist_ok=True)
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
        for path in sorted(self.folder.glob("*.lock")):
            lock = FileLock(path)
            with contextlib.suppress(Timeout, OSError), lock.acquire(timeout=0):
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()
