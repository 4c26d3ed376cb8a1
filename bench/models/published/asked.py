"""How a user names what is taken over a base: "PATH", "PATH,scale=0.8", several joined by ";"."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.contract.hashing import digest, file_digest
from t2i_backdoor_bench.models.fingerprint import fingerprint
from t2i_backdoor_bench.models.trust import locate


@dataclass(frozen=True)
class Asked:
    """A path, and the scale of an adapter; None: not given."""

    path: Path
    scale: float | None = None


def read_asked(text: str) -> tuple[Asked, ...]:
    """What a text names. An existing path is that path, whatever letters it has. Raises
    UserError."""
    if Path(text).exists():
        return (Asked(Path(text)),)
    return tuple(_one(part.strip()) for part in text.split(";") if part.strip())


def _one(text: str) -> Asked:
    if Path(text).exists():
        return Asked(Path(text))
    name, comma, number = text.rpartition(",scale=")
    path = Path(name if comma else text)
    try:
        scale = float(number) if comma else None
    except ValueError:
        scale = math.nan
    if scale is not None and not math.isfinite(scale):
        raise UserError(f"{text!r}: the scale {number!r} is no number; write {name},scale=0.8")
    if not path.exists() and str(path).count("/") == 1 and not path.suffix:
        path = locate(str(path))  # of the hub, or an error that says that it is not there
    if not path.exists():
        raise UserError(f"there is no file or folder {path} to take over the base")
    return Asked(path, scale)


def asked_fingerprint(text: str) -> str:
    """What identifies the files that a text names: of one whole folder its fingerprint, as of a
    base."""
    asked = read_asked(text)
    if (
        len(asked) == 1
        and asked[0].scale is None
        and (asked[0].path / "model_index.json").is_file()
    ):
        return fingerprint(str(asked[0].path))
    found = []
    for one in asked:
        files = sorted(one.path.rglob("*")) if one.path.is_dir() else [one.path]
        named = [f for f in files if f.suffix in (".json", ".safetensors", ".txt") and f.is_file()]
        found.append([one.scale, *(file_digest(f) for f in named)])
    return digest(found)
