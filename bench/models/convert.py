"""`convert`: pickles of weights become safetensors, each read in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.trust import PICKLES, check_inside, read_json

PROGRAM = Path(__file__).with_name("unpickle.py")
SAFE = ".safetensors"
# what a pickle of Hugging Face's libraries is called, and its safetensors
RENAMED = {"pytorch_model": "model"}
# files of a model that are no weights; what else is in a folder is left behind, and said
KEPT = (".json", ".txt", ".model", ".jinja", ".md")
INDEX = ".bin.index.json"
SAID = 5  # names of what was left out that a line shows


@dataclass(frozen=True)
class Done:
    """What became of one pickle: `tensors` of `bytes` in all; `left_out` names what was in it and
    is no tensor; `inside` is the entry of it that held the weights, or ""."""

    source: Path
    target: Path
    tensors: int
    bytes: int
    left_out: tuple[str, ...]
    inside: str
    network: bool  # whether its process had been cut off the network

    @property
    def text(self) -> str:
        found = f"{self.target}: {self.tensors} tensors, {self.bytes / 1e6:.1f} MB"
        found += f", of its entry {self.inside!r}" if self.inside else ""
        names = _some([repr(name[:60]) for name in self.left_out])
        return f"{found}; left out, as they are no weights: {names}" if names else found


def _some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - SAID
    return ", ".join(names[:SAID]) + (f" and {more} more" if more > 0 else "")


def convert(source: Path, target: Path, say: Callable[[str], None] = print) -> int:
    """Write the weights of `source`, a pickle or a folder of a model with pickles, to the new file
    or folder `target`. Returns 0. Raises UserError where there is nothing to convert, where
    `target` exists, or where a pickle holds more than tensors and plain containers; nothing is left
    of `target` then."""
    if target.exists():
        raise UserError(f"{target} exists: name a new file or folder")
    if source.is_dir():
        jobs, copies, behind = _plan(source)
        if target.resolve().is_relative_to(source.resolve()):
            raise UserError(f"{target} is inside of {source}: name a folder elsewhere")
    elif source.suffix.lower() in PICKLES and source.is_file():
        if target.suffix != SAFE:
            raise UserError(f"{target} must end in {SAFE}, which is what is written")
        jobs, copies, behind = {source: Path(target.name)}, {}, []
    else:
        raise UserError(f"{source} is neither a pickle ({', '.join(PICKLES)}) nor a folder of them")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".converted-") as place:
        made = Path(place) / target.name
        done = list(_written(jobs, copies, made if source.is_dir() else Path(place)))
        for found in done:
            say(found.text.replace(str(made), str(target)))
        made.rename(target)
    if behind:
        say(f"not taken over, as a model needs none of it: {_some(behind)}")
    if not all(found.network for found in done):
        say(
            "the network could not be taken away from the process that read them on this system;"
            " torch's weights_only alone kept the pickles from running code"
        )
    return 0


def _plan(folder: Path) -> tuple[dict[Path, Path], dict[Path, Path], list[str]]:
    """Of a folder: which pickle becomes which file, what is copied, and what stays behind. A pickle
    beside safetensors of the same name stays behind. Raises UserError for a link, and for a folder
    without pickles."""
    check_inside(folder, [p.name for p in folder.iterdir()])
    jobs, copies, behind = {}, {}, []
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            continue
        name = path.relative_to(folder)
        if path.suffix.lower() in PICKLES:
            target = name.with_name(_renamed(path.name))
            if (folder / target).exists():
                behind.append(str(name))
            else:
                jobs[path] = target
        elif path.suffix == SAFE or path.suffix.lower() in KEPT:
            copies[path] = name
        else:
            behind.append(str(name))
    if not jobs:
        raise UserError(f"{folder} holds no pickle ({', '.join(PICKLES)}) that has to be converted")
    return jobs, copies, behind


def _renamed(name: str) -> str:
    """model.bin -> model.safetensors; pytorch_model-00001-of-00002.bin -> model-0..."""
    stem = Path(name).stem
    for old, new in RENAMED.items():
        if stem == old or stem.startswith((f"{old}-", f"{old}.")):
            stem = new + stem.removeprefix(old)
    return stem + SAFE


def _written(jobs: Mapping[Path, Path], copies: Mapping[Path, Path], place: Path) -> Iterator[Done]:
    for path, name in copies.items():
        target = place / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.name.endswith(INDEX):
            head = path.name.removesuffix(INDEX)
            renamed = target.with_name(_renamed(f"{head}.bin") + ".index.json")
            renamed.write_text(_index(path), encoding="utf-8")
        else:
            shutil.copyfile(path, target)
    for path, name in jobs.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        yield _one(path, place / name)


def _index(path: Path) -> str:
    """The index of shards with the names of their safetensors."""
    found = read_json(path)
    try:
        shards = {key: _renamed(shard) for key, shard in found["weight_map"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no index of shards: {error}") from None
    return json.dumps(found | {"weight_map": shards}, indent=2)


def _one(source: Path, target: Path) -> Done:
    """Convert one pickle in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-I", str(PROGRAM), str(source.resolve()), str(target.resolve())],
        env={k: os.environ[k] for k in ("PATH", "SYSTEMROOT", "TMPDIR") if k in os.environ},
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        found = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise UserError(
            f"{source} could not be read: its process ended with status {done.returncode} ({last})"
        ) from None
    if "error" in found:
        first = found["error"].split("\n")[0]
        raise UserError(
            f"{source} holds more than tensors, or is damaged, and is not opened: {first}"
        )
    return Done(source, target, **(found | {"left_out": tuple(found["left_out"])}))
