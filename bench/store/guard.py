"""What of a run folder is touched: plain files and folders inside it, and nothing by a link.

A run folder may come from others. By a link in it, this program would read, overwrite or delete
what lies elsewhere, and opening a pipe would wait for ever. So links and special files are refused
wherever this program reads, writes, sweeps or deletes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from t2i_backdoor_bench.contract import StorageError, UserError
from t2i_backdoor_bench.contract.samples import PROBES

# the folders inside a run folder; others in it are left alone
FOLDERS = (
    *("cells", "samples", "models", "prompts", "maps", "sources", "plots", "locks"),
    *("harmless", *PROBES, "training", "saved"),
)


def check_folder(root: Path) -> None:
    """Raise StorageError for a link or a special file among what this program touches."""
    for _ in entries(root):
        pass


def entries(root: Path, under: str = "") -> Iterator[Path]:
    """The files of a run folder that this program may touch, or of one of its folders. Raises
    StorageError at the first link or special file."""
    waiting = [root / under]
    while waiting:
        folder = waiting.pop()
        try:
            found = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):  # another process may remove a folder
            continue
        except OSError as error:
            raise StorageError(f"cannot read {folder}: {error.strerror}") from None
        for entry in found:
            top = folder == root
            if entry.is_dir(follow_symlinks=False):
                if not top or entry.name in FOLDERS:
                    waiting.append(Path(entry))
                continue
            ours = not top or entry.name in FOLDERS or not entry.is_dir()
            if ours and _check(Path(entry)):
                yield Path(entry)


def inside(root: Path, name: str) -> Path:
    """The path of a name, which may come from a record of others: never one outside of the folder,
    by ".." or by a link. Raises UserError."""
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts or "\0" in name:
        raise UserError(
            f"{root} names the file {name!r}, which is outside of it: it is no run folder of this"
            " program"
        )
    if len(parts) > 1 and parts[0] not in FOLDERS:
        raise UserError(f"{root} names the file {name!r}; its folders are {', '.join(FOLDERS)}")
    path = root
    for part in parts:
        path = path / part
        _check(path)
    return path


def _check(path: Path) -> bool:
    """Whether there is something at a path. Raises StorageError where it is neither a plain file
    nor a folder."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:  # such as a name that is too long
        raise StorageError(f"cannot use {path}: {error}") from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        what = "a link" if stat.S_ISLNK(mode) else "no plain file (a pipe, socket or device)"
        raise StorageError(
            f"{path} is {what}, and a run folder holds plain files alone: a link could lead this"
            " program to files of yours; remove it, or put the file itself there"
        )
    return True
