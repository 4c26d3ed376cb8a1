"""The same command again on a run that is finished: there is nothing to make, and it is known
without torch, whose import takes longer than all of this.

A run that ends whole leaves `finished.json`: digests of all that its cells and tables depend on,
and of what it left. Where one of them is another now, or is not known without work, the command
runs as always, and finds out by itself.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from t2i_backdoor_bench.contract import registry
from t2i_backdoor_bench.contract.hashing import digest, file_digest, plain
from t2i_backdoor_bench.contract.plugged import GROUPS, points
from t2i_backdoor_bench.contract.printable import visible
from t2i_backdoor_bench.models.catalog import BASES
from t2i_backdoor_bench.models.fingerprint import fingerprint, scorer_fingerprint
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.forms import each, name, obj, of_all, text
from t2i_backdoor_bench.store.provenance import sources, versions
from t2i_backdoor_bench.store.records import read_plan

NAME = "finished"
FINISHED = obj(
    required=("command", "cells", "written", "notes"),
    closed=True,
    command=name,
    cells=name,
    written=of_all(name),
    notes=each(text),
)
# they are not what a number or a table is made by
WEIGHTS = (".safetensors", ".pyc")
# any of them may be "auto"; none of them is a processor
ACCELERATORS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
RESULTS = (".csv", ".md", ".tex", ".html", ".png", ".pdf")


def command_digest(config: Config) -> str:
    """Digest of all that the cells and tables of a command depend on: its settings, the code, the
    libraries, the base and its scorer. "" where a part of it is not known without work: models,
    data, methods and networks of others, accelerators, models to save, trackers, Ray."""
    base = BASES.get(config.base)
    apart = (config.fresh, config.renew, config.models, config.data, config.clip, config.track)
    apart += (config.save_models, config.attention_maps, config.executor != "local")
    if base is None or not Path(base.source).is_dir() or any(apart) or _others():
        return ""
    if config.device not in ("auto", "cpu") or any(map(os.path.exists, ACCELERATORS)):
        return ""
    return digest(
        {
            "config": plain(config),
            "code": _code(),
            "versions": versions(),
            "weights": [fingerprint(base.source), scorer_fingerprint(base.scorer)],
            "networks": sorted(path.name for path in _networks().glob("*")),
        }
    )


def _others() -> bool:
    """Whether there may be methods of other packages or of this process, or networks that
    metrics are told of."""
    kinds = (registry.attacks, registry.defenses, registry.metrics)
    own = __name__.partition(".")[0]
    known = [entry.cls.__module__ for kind in kinds for entry in kind.entries.values()]
    named = any(variable.startswith("T2I_") for variable in os.environ)
    return named or any(map(points, GROUPS)) or any(m.partition(".")[0] != own for m in known)


def _code() -> dict[str, str]:
    """Digests of the files of this package, without those of weights."""
    return {
        (folder / path.relative_to(root)).as_posix(): file_digest(path)
        for folder, root in sources().items()
        for path in root.rglob("*")
        if path.is_file() and path.suffix not in WEIGHTS
    }


def _networks() -> Path:
    """Where torch keeps published networks, which some metrics use if they are there."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("TORCH_HOME") or f"{cache}/torch"
    return Path(home).expanduser() / "hub" / "checkpoints"


def remember(config: Config, store: Store, notes: Sequence[str]) -> None:
    """Note that the command of `config` left the folder finished; `notes` is what it said."""
    if (command := command_digest(config)) and (cells := _cells(store)):
        written = {path.relative_to(store.root).as_posix() for path in _results(store)}
        payload = {"command": command, "cells": cells, "notes": list(notes)}
        found = {name: file_digest(store.path(name)) for name in sorted(written)}
        store.write_record(NAME, payload | {"written": found})


def forget(store: Store) -> None:
    """The folder is about to change."""
    store.drop_file(f"{NAME}.json")


def _cells(store: Store) -> str:
    """Digest of the records of the folder's plan; "" where one is not there, or its pictures are
    damaged."""
    keys = sorted({cell["key"] for cell in read_plan(store).get("cells", [])})
    texts = {key: store.record_bytes(key) for key in keys}
    whole = all(texts.values()) and not any(
        store.damaged(f"samples/{key}.safetensors") for key in keys
    )
    if not whole:
        return ""
    return digest({key: hashlib.sha256(text).hexdigest() for key, text in texts.items() if text})


def _results(store: Store) -> list[Path]:
    """The tables and figures of a folder."""
    return [
        path
        for room in ("", "plots")
        for ending in RESULTS
        for path in store.files(room, ending)
        if not path.name.startswith(".")
    ]


def finished(config: Config) -> tuple[Store, list[Path]] | None:
    """The run folder and its tables and figures, where the command of `config` has made everything
    already; None where it may have something to do. What the run said is said again, and `run.json`
    counts one more command."""
    begun = time.time()
    if not (config.folder / f"{NAME}.json").is_file():
        return None
    said: list[str] = []
    store = Store(config.folder, said.append, read_only=True)
    left = store.read_record(NAME, FINISHED)
    if left is None or said or left["command"] != command_digest(config):
        return None
    if left["cells"] != _cells(store) or said:
        return None
    written = {path.relative_to(store.root).as_posix(): path for path in _results(store)}
    if {name: file_digest(path) for name, path in written.items()} != left["written"]:
        return None
    many = len(read_plan(store)["cells"])
    notes = [*left["notes"], f"{many} of {many} cells are stored in {config.folder}"]
    print("\n".join(visible(note) for note in notes), file=sys.stderr)
    return _counted(store, begun, many), list(written.values())


def _counted(store: Store, begun: float, cells: int) -> Store:
    """The store, with one more command in its `run.json`."""
    writing = Store(store.root, store.say)
    try:
        with writing.working():
            manifest: dict[str, Any] = read_plan(writing)
            command = {"wall_seconds": round(time.time() - begun, 1), "cells_made": 0}
            command |= {"cells": cells, "workers": 0, "unix_time": int(time.time())}
            manifest["commands"] = [*manifest.get("commands", []), command]
            writing.write_record("run", manifest)
    finally:
        writing.drop_locks()
    return writing
