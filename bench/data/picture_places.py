"""Where the pictures of a data set may be: in the table itself, in its own folder, or in its own
repository on the hub. A table of others names any path and any address."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from t2i_backdoor_bench.contract import UserError

# an address of a file in a repository, or of one in an archive there
ADDRESS = r"(?:(?:zip|tar)://[^:]*::)?hf://datasets/{name}(?:@[^/:]+)?/[^:]*"
STATES = ("state.json", "dataset_dict.json")  # what `save_to_disk` writes


@dataclass(frozen=True)
class Place:
    """The `folder` of a local data set, or the `repository` of the hub whose own pictures the
    library has listed; with `stream` these are read from the hub. Without either, what the table
    holds of pictures is all that is read."""

    folder: Path | None = None
    repository: str = ""
    stream: bool = False

    def read(self, path: str) -> bytes:
        """The content of a picture, b"" where it is missing or not one of the data set's own."""
        try:
            if self.stream:
                return self._fetch(path)
            real = self.file(path)
            return real.read_bytes() if real is not None else b""
        except (OSError, ValueError):
            return b""

    def file(self, path: str) -> Path | None:
        """The file that a path names; None where there is none, or where it is not one of the data
        set's own."""
        try:
            real = ((self.folder or Path.cwd()) / path).resolve()
            own = path and real.is_file() and any(map(real.is_relative_to, self._roots()))
            return real if own else None
        except (OSError, ValueError):
            return None

    def _fetch(self, path: str) -> bytes:
        name = re.escape(self.repository)
        if not name or not re.fullmatch(ADDRESS.format(name=name), path) or ".." in path:
            return b""
        import fsspec

        with fsspec.open(path, "rb") as file:
            return file.read()

    def _roots(self) -> list[Path]:
        if self.folder:
            return [self.folder]
        if not self.repository:
            return []
        import datasets
        from huggingface_hub.constants import HF_HUB_CACHE

        own = Path(HF_HUB_CACHE) / f"datasets--{self.repository.replace('/', '--')}"
        return [own.resolve(), Path(datasets.config.DOWNLOADED_DATASETS_PATH).resolve()]


def check_files(path: Path) -> None:
    """Refuse a local data set whose files are links out of it, pipes, or lists of files elsewhere.
    Raises UserError."""
    folder = path.resolve()
    for file in [path, *(path.rglob("*") if path.is_dir() else ())]:
        real = file.resolve()
        if file != path and file.is_symlink() and not real.is_relative_to(folder):
            raise UserError(
                f"--data {path}: {file} is a link that leaves the folder; copy the file itself"
                " there if you trust it"
            )
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise UserError(f"--data {path}: {file} is no plain file")
        if file.name in STATES:
            _check_state(path, file)


def _check_state(path: Path, file: Path) -> None:
    """Refuse a list of files or splits that names another folder."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        names = [entry["filename"] for entry in found.get("_data_files", [])]
        names += found.get("splits", [])
        wrong = [n for n in names if Path(n).name != n or n in ("", ".", "..")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"--data {path}: {file} is not what save_to_disk writes") from None
    if wrong:
        raise UserError(f"--data {path}: {file} names {wrong[0]!r}, which is outside of its folder")
