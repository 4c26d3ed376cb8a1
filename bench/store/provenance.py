"""Where the numbers of a record come from: code, libraries, weights, networks and machine.

Every record names them. A table warns where its rows differ in them.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.contract.hashing import digest
from t2i_backdoor_bench.contract.plugged import GROUPS, points

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

Code = Mapping[str, Any]  # what `current_code` returns; {} where a record does not name its code


@cache
def current_code() -> dict[str, Any]:
    """The code of this process: its git commit, whether files differ from the commit, a digest of
    the source files, and the versions of libraries.

    It is read once. A file that is edited during a run does not change the code of the run.
    """
    found = commit()
    return {
        "commit": found.rstrip("+"),
        "dirty": found.endswith("+"),
        "source": source_digest(),
        "versions": versions(),
    }


def source_digest() -> str:
    """Digest of this package's Python files. It identifies code with uncommitted changes or without
    git, and is the same in a clone and where the package is installed."""
    files = {
        (folder / p.relative_to(path)).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for folder, path in sources().items()
        for p in path.rglob("*.py")
    }
    return digest(files)


def sources() -> dict[Path, Path]:
    """The folders with this package's code, by their place in the package. The folders of the
    methods are beside bench/ in a clone, and inside of the package where it is installed."""
    found = {Path(): PACKAGE}
    for kind in KINDS:
        path = Path(importlib.import_module(f"t2i_backdoor_bench.{kind}").__file__).parent
        if not path.is_relative_to(PACKAGE):
            found[Path(kind)] = path
    return found


def versions() -> dict[str, str]:
    """Versions of Python, of the libraries that change numbers, and of installed packages that
    add methods, targets or bases."""
    found = {"python": platform.python_version()}
    plugins = {p.dist.name for group in GROUPS for p in points(group) if p.dist}
    for name in (*PACKAGES, *sorted(plugins)):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The git commit of this clone, with "+" where source files differ from it, also where it does
    not have them; "" outside of a clone. Files that a run writes are no source files."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != ROOT:
            return ""  # installed in a folder of another repository
        head, folders = git("rev-parse", "HEAD"), map(str, sources().values())
        code = [f":(glob){folder}/**/*.py" for folder in folders]
        changed = git("status", "--porcelain", "--untracked-files=all", "--", *code)
    except (OSError, subprocess.SubprocessError):
        return ""
    return head + ("+" if changed else "")


def distinct(codes: Iterable[Code]) -> list[Code]:
    """The codes without repetitions, in their order."""
    return list({digest(c): c for c in codes}.values())


def config_hashes(config: Mapping[str, Any]) -> dict[str, str]:
    """From the configuration of a cell: the hash of the base's weights, and the hash of the
    attack's configuration, which is the file name of the attacked weights. "" where unknown."""
    parts = ("shared", "attack", "seed")
    known = all(part in config for part in parts)
    return {
        "base": config.get("shared", {}).get("base", {}).get("weights", ""),
        "attack": digest({part: config[part] for part in parts}) if known else "",
    }


def describe(
    result: Record, made: Mapping[str, Any], earlier: Mapping[str, Any], judge: str
) -> dict[str, Any]:
    """The `provenance` of a record. `made` describes how its images were made, and `earlier` is the
    provenance of the record that this one completes. Their code is kept beside the current code."""
    codes = [*made.get("codes", [{}]), *earlier.get("codes", []), current_code()]
    return config_hashes(result.cell.config) | {
        "attack_weights": made.get("attack_weights", ""),
        "seed": result.cell.seed,
        "machine": made.get("machine", ""),
        "judge": judge,
        "networks": {name: score.network for name, score in result.scores.items() if score.network},
        "codes": distinct(codes),
        "sources": dict(made.get("sources", {})),
    }


def other_weights(one: str, two: str) -> bool:
    """Whether two checksums of attacked weights are known and differ."""
    return bool(one and two) and one != two


def codes_of(record: Record) -> list[Code]:
    """The code that made a record, one entry for each version of the code; {} stands for code that
    the record does not name or does not describe as `current_code` does."""
    found = record.provenance.get("codes")
    codes = found if isinstance(found, list) else []
    kinds = {"commit": str, "dirty": bool, "source": str, "versions": dict}
    right = [
        isinstance(c, Mapping) and all(isinstance(c.get(k), kind) for k, kind in kinds.items())
        for c in codes
    ]
    return distinct(c if ok else {} for c, ok in zip(codes, right, strict=True)) or [{}]


def columns(result: Record) -> dict[str, str]:
    """The columns of rows.csv that say where a row comes from. Older records leave some empty."""
    codes = [c for c in codes_of(result) if c]
    judge = result.origin("judge") if codes else ""
    hashes = config_hashes(result.cell.config)
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
    """One line for a table whose finished rows differ in their origin: in code, in versions of
    libraries, in the machine, or in the weights of one attack. "" where no difference is known."""
    done = [record for record in records if record.status == "done"]
    parts = [*_other_code(done), *_other_machines(done)]
    if twice := trained_twice(done):
        parts.append(
            "with an attack trained more than once, so that there is nothing to pair"
            f" ({', '.join(twice)})"
        )
    return f"Warning: rows were made {'; '.join(parts)}. Compare them with care." if parts else ""


def _other_code(done: Sequence[Record]) -> Iterator[str]:
    rows = [codes_of(record) for record in done]
    known = [c for c in distinct(c for row in rows for c in row) if c]
    if len({c["source"] for c in known}) > 1:
        names = [f"{c['commit'][:9] or 'no commit'}{'+' if c['dirty'] else ''}" for c in known]
        yield f"by different code ({', '.join(dict.fromkeys(names))})"
    for name in dict.fromkeys(n for c in known for n in c["versions"]):
        values = dict.fromkeys(c["versions"].get(name, "none") for c in known)
        if len(values) > 1:
            yield f"with {name} {' and '.join(values)}"
    unknown = sum({} in row for row in rows)
    if known and unknown:
        yield (f"{unknown} of {len(rows)} in part or whole by code that their records do not name")


def _other_machines(done: Sequence[Record]) -> Iterator[str]:
    machines = sorted({record.origin("machine") for record in done}, reverse=True)
    if len(machines) > 1:
        names = [m or "machines that their records do not name" for m in machines]
        yield f"on {' and '.join(names)}, so that seconds do not compare"


def trained_twice(records: Sequence[Record]) -> list[str]:
    """The attacks whose records of one seed name different attacked weights, such as
    "badt2i_pixel, seed 0"."""
    weights: dict[str, set[str]] = {}
    for record in records:
        name = f"{record.cell.attack}, seed {record.cell.seed}"
        weights.setdefault(name, set()).add(record.origin("attack_weights"))
    return [name for name, found in weights.items() if len(found - {""}) > 1]
