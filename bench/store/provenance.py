"""Where numbers come from: code, libraries, weights and networks, carried by every record, and said
where the rows of a table differ."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.contract.hashing import digest

PACKAGE = Path(__file__).resolve().parents[1]
ROOT = PACKAGE.parent  # the repository, where the package is its folder bench
PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "open_clip_torch",
    "torchmetrics",
    "safetensors",
    "numpy",
    "scipy",
    "pandas",
)
KINDS = ("attacks", "defenses", "metrics")

Code = Mapping[str, Any]  # as `running_code` returns it; {} where a record does not say


@cache
def running_code() -> dict[str, Any]:
    """The code that runs: its git commit, whether files differ from it, a digest of its source
    files, and the versions of libraries.

    Read once: what is edited on disk while a run is at work is not what runs.
    """
    found = commit()
    return {
        "commit": found.rstrip("+"),
        "dirty": found.endswith("+"),
        "source": source_digest(),
        "versions": versions(),
    }


def source_digest() -> str:
    """Digest of this package's Python files: it identifies uncommitted changes, and code without
    git."""
    files = {
        f"{folder.name}/{p.relative_to(folder).as_posix()}": p
        for folder in sources()
        for p in sorted(folder.rglob("*.py"))
    }
    return digest(
        {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    )


def sources() -> list[Path]:
    """The folders of this package's code: its own and those of the methods, which lie beside it in
    the repository and in it where it is installed."""
    methods = [
        Path(importlib.import_module(f"t2i_backdoor_bench.{kind}").__file__).parent
        for kind in KINDS
    ]
    return [PACKAGE, *(folder for folder in methods if not folder.is_relative_to(PACKAGE))]


def versions() -> dict[str, str]:
    """Versions of Python, of the libraries that numbers depend on, and of installed packages that
    bring methods."""
    found = {"python": platform.python_version()}
    plugins = {
        p.dist.name
        for kind in KINDS
        for p in importlib.metadata.entry_points(group=f"t2i_backdoor_bench.{kind}")
        if p.dist
    }
    for name in (*PACKAGES, *sorted(plugins)):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The git commit of this checkout ("+" when source files differ from it), or "" outside of one.
    What a run writes is no source."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        if (
            Path(git("rev-parse", "--show-toplevel")) != ROOT
        ):  # installed below somebody else's checkout
            return ""
        return git("rev-parse", "HEAD") + (
            "+"
            if git("status", "--porcelain", "--untracked-files=no", "--", *map(str, sources()))
            else ""
        )
    except (OSError, subprocess.SubprocessError):
        return ""


def distinct(codes: Iterable[Code]) -> list[Code]:
    return list({digest(c): c for c in codes}.values())


def of_cell(config: Mapping[str, Any]) -> dict[str, str]:
    """Hashes of the base's weights and of the attack's configuration (the name of its stored
    weights) that a cell's configuration holds."""
    shared = config.get("shared", {})
    attack = (
        digest({k: config[k] for k in ("shared", "attack", "seed")})
        if {"shared", "attack", "seed"} <= set(config)
        else ""
    )
    return {"base": shared.get("base", {}).get("weights", ""), "attack": attack}


def describe(
    result: Record, made: Mapping[str, Any], earlier: Mapping[str, Any], judge: str
) -> dict[str, Any]:
    """What a record says of where its numbers come from. `made` is what is stored beside its
    images, `earlier` the same description of the record that it completes: the code of all three is
    kept."""
    codes = [*made.get("codes", [{}]), *earlier.get("codes", []), running_code()]
    networks = {name: score.network for name, score in result.scores.items() if score.network}
    start = of_cell(result.cell.config) | {
        "attack_weights": made.get("attack_weights", ""),
        "seed": result.cell.seed,
    }
    start["machine"] = made.get("machine", "")
    return start | {"judge": judge, "networks": networks, "codes": distinct(codes)}


def other_weights(one: str, two: str) -> bool:
    """Whether two checksums of attacked weights are of different models: both are named, and
    differ."""
    return bool(one and two) and one != two


def codes_of(record: Record) -> list[Code]:
    """The code that a record names; {} where it names none, or where what it says is no description
    of code."""
    found = record.provenance.get("codes")
    codes = found if isinstance(found, list) else []
    kinds = {"commit": str, "dirty": bool, "source": str, "versions": dict}
    right = [
        isinstance(c, Mapping) and all(isinstance(c.get(k), kind) for k, kind in kinds.items())
        for c in codes
    ]
    return distinct(c if ok else {} for c, ok in zip(codes, right, strict=True)) or [{}]


def columns(result: Record) -> dict[str, str]:
    """The columns of rows.csv that say where a row comes from. Records of before say less."""
    codes = [c for c in codes_of(result) if c]
    judge = result.origin("judge") if codes else ""
    hashes = of_cell(result.cell.config)
    return {
        "base_hash": hashes["base"][:16],
        "attack_hash": hashes["attack"][:16],
        "commit": " ".join(dict.fromkeys(c["commit"][:12] or "unknown" for c in codes)),
        "dirty": "" if not codes else "yes" if any(c["dirty"] for c in codes) else "no",
        "versions": " | ".join(
            dict.fromkeys(" ".join(f"{k}={v}" for k, v in c["versions"].items()) for c in codes)
        ),
        "judge": judge,
        "machine": result.origin("machine"),
        "attack_weights": result.origin("attack_weights")[:16],
    }


def warning(records: Sequence[Record]) -> str:
    """One line where finished rows were made by different code or library versions, on different
    machines, or of different attacked models that go by one name; "" where they were not, or where
    no row says."""
    done = [result for result in records if result.status == "done"]
    rows = [codes_of(result) for result in done]
    codes = distinct(c for row in rows for c in row)
    known = [c for c in codes if c]
    parts = []
    if len({c["source"] for c in known}) > 1:
        names = dict.fromkeys(
            f"{c['commit'][:9] or 'no commit'}{'+' if c['dirty'] else ''}" for c in known
        )
        parts.append(f"by different code ({', '.join(names)})")
    for name in dict.fromkeys(n for c in known for n in c["versions"]):
        values = dict.fromkeys(c["versions"].get(name, "none") for c in known)
        if len(values) > 1:
            parts.append(f"with {name} {' and '.join(values)}")
    unknown = sum({} in row for row in rows)
    if known and unknown:
        parts.append(
            f"{unknown} of {len(rows)} in part or whole by code that their records do not name"
        )
    machines = dict.fromkeys(result.origin("machine") for result in done)
    if len(machines) > 1:
        named = " and ".join(
            m or "machines that their records do not name" for m in sorted(machines, reverse=True)
        )
        parts.append(f"on {named}, so that seconds do not compare")
    several = mixed(done)
    if several:
        parts.append(
            "with an attack trained more than once, so that there is nothing to pair"
            f" ({', '.join(several)})"
        )
    return f"Warning: rows were made {'; '.join(parts)}. Compare them with care." if parts else ""


def mixed(records: Sequence[Record]) -> list[str]:
    """The attacks of which records of one seed name different attacked weights: "badt2i_pixel, seed
    0"."""
    weights: dict[str, set[str]] = {}
    for result in records:
        weights.setdefault(f"{result.cell.attack}, seed {result.cell.seed}", set()).add(
            result.origin("attack_weights")
        )
    return [name for name, found in weights.items() if len(found - {""}) > 1]
