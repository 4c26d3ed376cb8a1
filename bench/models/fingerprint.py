"""What identifies weights: a digest of a local folder's files, or the name of published ones."""

from __future__ import annotations

from pathlib import Path

from t2i_backdoor_bench.contract.hashing import digest, file_digest
from t2i_backdoor_bench.models.families.folders import LAYOUTS
from t2i_backdoor_bench.models.trust import locate

PARTS = tuple(dict.fromkeys(part for layout in LAYOUTS.values() for part in layout.identity))


def fingerprint(source: str) -> str:
    """What identifies the weights of a base model: a digest of a local folder's files, or the
    commit of a hub snapshot."""
    folder = Path(source)
    if not folder.is_dir():
        return locate(source).name
    parts = [folder / p for p in PARTS]
    files = [
        f
        for p in parts
        for f in ([p] if p.is_file() else sorted(p.rglob("*")))
        if f.suffix in (".json", ".safetensors", ".txt")
    ]
    return digest({f.relative_to(folder).as_posix(): file_digest(f) for f in files})


def scorer_fingerprint(spec: str) -> str:
    """What identifies the scorer: a digest of a local folder, or the "model:checkpoint" that names
    a published one."""
    folder = Path(spec)
    if not folder.is_dir():
        return spec
    return digest(
        {
            f.name: file_digest(f)
            for f in sorted(folder.iterdir())
            if f.suffix in (".json", ".safetensors")
        }
    )
