"""Archives of run folders: written with plain files alone, and read as a stranger's."""

from __future__ import annotations

import tarfile
from pathlib import Path, PurePosixPath

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.store.atomic import write_atomic

MOST_FILES = 100_000
MOST_BYTES = 4 * 2**30  # unpacked; a run of 1000 cells takes 100 MB without its samples
FORMAT = tarfile.USTAR_FORMAT  # has no place for more than name, size and time


def pack(folder: Path, archive: Path, name: str) -> None:
    """Write every file of a folder to a .tar.gz, under `name`, without owner, rights or time."""

    def fill(partial: Path) -> None:
        with tarfile.open(partial, "w:gz", format=FORMAT) as tar:
            for path in sorted(p for p in folder.rglob("*") if p.is_file()):
                info = tarfile.TarInfo(f"{name}/{path.relative_to(folder).as_posix()}")
                info.size = path.stat().st_size
                with path.open("rb") as file:
                    tar.addfile(info, file)

    write_atomic(archive, fill)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a stranger's archive of one run folder into `folder`, which must not exist. Raises
    UserError for anything but plain files within one folder, and for more than a run has."""
    if folder.exists():
        raise UserError(f"{folder} exists: name a new folder with --out")
    try:
        with tarfile.open(archive, "r:gz") as tar:
            members = _checked(archive, tar)
            for member, parts in members:
                path = folder.joinpath(*parts)
                path.parent.mkdir(parents=True, exist_ok=True)
                with tar.extractfile(member) as source, path.open("xb") as target:
                    while block := source.read(2**20):
                        target.write(block)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(
            f"{archive} cannot be unpacked ({error}): is it what submit wrote?"
        ) from None


def _checked(archive: Path, tar: tarfile.TarFile) -> list[tuple[tarfile.TarInfo, tuple[str, ...]]]:
    found, size, tops = [], 0, set()
    for member in tar:
        if member.isdir():
            continue
        parts = PurePosixPath(member.name).parts
        bad = not member.isreg() or len(parts) < 2 or ".." in parts or parts[0] == "/"
        if bad or "\\" in member.name or "\0" in member.name:
            raise UserError(
                f"{archive} holds {member.name!r}, which is no plain file within one folder: it is"
                " not what submit wrote"
            )
        size, tops = size + member.size, tops | {parts[0]}
        if len(found) >= MOST_FILES or size > MOST_BYTES or len(tops) > 1:
            raise UserError(
                f"{archive} holds more than one run folder: it is not what submit wrote"
            )
        found.append((member, parts[1:]))
    if not found:
        raise UserError(f"{archive} is empty")
    return found
