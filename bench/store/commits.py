"""What a git commit says of the code that a record names.

A record names its code twice: by a commit, and by a digest of the source files. Where this is a
clone that has the commit, the two can be compared.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from functools import cache

from t2i_backdoor_bench.contract.hashing import digest
from t2i_backdoor_bench.store.provenance import KINDS, PACKAGE, ROOT

BESIDE = PACKAGE.name  # the folder of the package in a clone


def is_clone() -> bool:
    """Whether this code is in a git clone of its own."""
    return _git("rev-parse", "--show-toplevel").strip() == str(ROOT).encode()


@cache
def source_at(commit: str) -> str:
    """The digest of the source files (`provenance.source_digest`) that a commit has; "" for a
    commit that this clone does not have, and for what is no full name of a commit."""
    if not re.fullmatch("[0-9a-f]{40}", commit):
        return ""
    tree = _git("ls-tree", "-r", "-z", "--full-tree", commit, "--", BESIDE, *KINDS)
    blobs = {}
    for line in tree.decode(errors="replace").split("\0"):
        about, _, path = line.partition("\t")
        if path.endswith(".py"):
            blobs[path.removeprefix(f"{BESIDE}/")] = about.split()[2]
    out = _git("cat-file", "--batch", given="\n".join(blobs.values()))
    files, at = {}, 0
    for path in blobs:
        end = out.index(b"\n", at)
        size = int(out[at:end].split()[2])
        files[path] = hashlib.sha256(out[end + 1 : end + 1 + size]).hexdigest()
        at = end + size + 2
    return digest(files) if files else ""


def _git(*words: str, given: str = "") -> bytes:
    """What git writes; nothing where it fails."""
    try:
        command = ["git", "-C", str(ROOT), *words]
        done = subprocess.run(
            command, input=given.encode(), capture_output=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return b""
    return done.stdout
