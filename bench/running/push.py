"""`push`: a model or the results of a run to a hub, in the form that its libraries read, or into a
local folder.

A model is a folder that `--save-models` or `export` wrote. Results are a data set: tables as
parquet and CSV, records, and the report. Neither has paths of this machine in it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pandas as pd
import yaml

from t2i_backdoor_bench.contract import Record, UserError
from t2i_backdoor_bench.contract.printable import visible
from t2i_backdoor_bench.running.export import export
from t2i_backdoor_bench.running.saved_models import CARD, check_target
from t2i_backdoor_bench.running.submission import copy_run
from t2i_backdoor_bench.store.atomic import storing, write_text
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.freeing import open_ours
from t2i_backdoor_bench.store.private_paths import paths_in, stripped
from t2i_backdoor_bench.store.records import read_plan

MODEL, RESULTS = "model", "dataset"  # what a hub calls them
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
CONFIGS = re.compile(r"(model_index|.*config)\.json")  # of a model: where paths may stand
TEXTS = (".json", ".yaml", ".csv", ".md")  # of results: where paths may stand


@dataclass(frozen=True)
class Writers:
    """What is written of records in another room: tables and report of a folder, and the rows of
    each table by its name."""

    publish: Callable[[Store], None]
    tables: Callable[[Store], Mapping[str, Sequence[Mapping[str, Any]]]]


@dataclass(frozen=True)
class Target:
    """Where something goes: a repository of the hub, or a `folder` instead."""

    repo: str
    folder: Path | None = None


def push(what: str, to: str, run: Path, public: bool, writers: Writers) -> int:
    """Push a model's folder, a run folder, or the model of a cell of `run` (ATTACK/DEFENSE/SEED).
    `to`: a repository of the hub, private unless `public`; or a folder that is new or empty, as a
    path or a file:// address. Returns 0. Raises UserError."""
    target = target_of(to)
    with tempfile.TemporaryDirectory() as elsewhere:
        stage, folder = Path(elsewhere) / "stage", Path(what)
        if not folder.is_dir():
            folder = Path(elsewhere) / "model"
            export(what, folder, run)
        kind = kind_of(folder)
        if kind == MODEL:
            stage_model(folder, stage)
        else:
            stage_results(folder, stage, writers)
        where = put(stage, target, kind, public, folder.resolve().name)
    print(visible(f"{where}: {'the model' if kind == MODEL else 'the results'} of {what}"))
    return 0


def target_of(to: str) -> Target:
    """Where `to` leads. Raises UserError."""
    if to.startswith("file:"):
        return _folder(Path(unquote(urlparse(to).path)))
    if to.startswith(("/", ".", "~")) or (to and Path(to).is_dir()):
        return _folder(Path(to).expanduser())
    if not HUB_NAME.fullmatch(to):
        raise UserError(f"{to!r} is no repository such as OWNER/NAME, and no path such as ./folder")
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise UserError(
            f"HF_HUB_OFFLINE is set: {to} cannot be reached; push into a folder (./NAME)"
        )
    return Target(to)


def _folder(path: Path) -> Target:
    check_target(path)
    return Target("", path)


def kind_of(folder: Path) -> str:
    """Whether a folder holds a model or results. Raises UserError for another one."""
    if (folder / "run.json").is_file():
        return RESULTS
    if (folder / CARD).is_file() and any(folder.rglob("*.safetensors")):
        return MODEL
    raise UserError(
        f"{folder} is neither a run folder (run.json) nor a model that --save-models or export"
        f" wrote ({CARD} and safetensors)"
    )


def stage_model(folder: Path, stage: Path) -> None:
    """The files of a model, without paths of this machine in its card and configurations. Weights
    are linked where the file system can."""
    for path in sorted(p for p in folder.rglob("*") if not p.is_dir() or p.is_symlink()):
        if path.is_symlink() or not path.is_file():
            raise UserError(
                f"{path} is no plain file: a model that is pushed holds plain files alone"
            )
        place = stage / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.name == CARD:
            place.write_text(stripped(path.read_text(encoding="utf-8")), encoding="utf-8")
        elif CONFIGS.fullmatch(path.name):
            found = without_paths(json.loads(path.read_text(encoding="utf-8")))
            place.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        else:
            copy(path, place)


def without_paths(value: Any) -> Any:
    """A JSON value with the last part alone of each absolute path."""
    if isinstance(value, str):
        return stripped(value)
    if isinstance(value, list):
        return [without_paths(inner) for inner in value]
    if isinstance(value, dict):
        return {name: without_paths(inner) for name, inner in value.items()}
    return value


def copy(path: Path, place: Path) -> None:
    try:
        os.link(path, place)
    except OSError:  # another file system, or one without links
        with storing(place):
            shutil.copyfile(path, place)


def stage_results(folder: Path, stage: Path, writers: Writers) -> None:
    """What others read of a run: records, tables and report, without paths of this machine, and the
    tables as parquet. Raises UserError where numbers depend on such a path, or none are there."""
    store = open_ours(folder)
    manifest, records = read_plan(store), planned(store)
    if not any(r.status == "done" for r in records.values()):
        raise UserError(f"{folder} holds no finished cell: there is nothing to push")
    name = folder.resolve().name
    made = Store(stage, lambda text: None)
    copy_run(store, made, manifest, records, name)
    writers.publish(made)
    (stage / "data").mkdir()
    tables = writers.tables(made)
    for table, rows in tables.items():
        pd.DataFrame(rows).to_parquet(stage / "data" / f"{table}.parquet", index=False)
    write_text(stage / CARD, card(name, manifest, records, list(tables)))
    for where in leaks(stage):
        raise UserError(
            f"{where} is a path of this machine, and numbers depend on it: give the model or the"
            " data by the id of a hub, or by a path relative to the folder of the command"
        )


def planned(store: Store) -> dict[str, Record]:
    """The stored records of the cells that run.json lists, by key."""
    keys = [cell["key"] for cell in read_plan(store)["cells"]]
    found = {key: store.read_result(key) for key in dict.fromkeys(keys)}
    return {key: record for key, record in found.items() if record is not None}


def leaks(folder: Path) -> Iterator[str]:
    """Where texts hold an absolute path, with the path."""
    for path in sorted(p for p in folder.rglob("*") if p.suffix in TEXTS):
        yield from paths_in(path.read_text(encoding="utf-8"), str(path.relative_to(folder)))


def card(
    name: str, manifest: Mapping[str, Any], records: Mapping[str, Record], tables: Sequence[str]
) -> str:
    """The README.md of a data set of results."""
    front = {
        "pretty_name": name,
        "tags": ["text-to-image", "backdoor", "benchmark", "t2i-backdoor-bench"],
        "configs": [{"config_name": t, "data_files": f"data/{t}.parquet"} for t in tables],
    }
    protocol, cells = manifest["protocol"], manifest["cells"]
    done = sum(r.status == "done" for r in records.values())
    about = {k: protocol[k] for k in ("base", "scale", "data", "protocol") if k in protocol}
    evaluation = protocol.get("evaluation", {})
    about |= {"prompts a condition": evaluation["n"]} if "n" in evaluation else {}
    about |= {"a trial with the first of": whole} if (whole := evaluation.get("first_of")) else {}
    lines = [
        f"# {visible(name)}",
        "Results of t2i-backdoor-bench: backdoor attacks on a text-to-image model, and defenses.",
        f"{done} of {len(cells)} cells are done; "
        + ", ".join(f"{k} {visible(str(v))}" for k, v in about.items())
        + ".",
        "| file | holds |\n|---|---|\n"
        "| `data/table.parquet`, `table.csv` | a row for each attack and defense |\n"
        "| `data/rows.parquet`, `rows.csv` | a row for each cell and metric |\n"
        "| `report.html` | all of it, to be read |\n"
        "| `run.yaml`, `run.json`, `cells/` | what repeats the run, and its records |",
    ]
    text = yaml.safe_dump(front, sort_keys=False, allow_unicode=False)
    return f"---\n{text}---\n\n" + "\n\n".join(lines) + "\n"


def put(stage: Path, target: Target, kind: str, public: bool, name: str) -> str:
    """Put what was made ready where it goes, and return the place. Raises UserError, in one line,
    for whatever keeps the hub from taking it."""
    if target.folder is not None:
        with storing(target.folder):
            shutil.copytree(stage, target.folder, dirs_exist_ok=True)
        return str(target.folder)
    from huggingface_hub import HfApi

    api, message = HfApi(), f"{name}, by t2i-backdoor-bench"
    try:
        api.create_repo(target.repo, repo_type=kind, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=target.repo, repo_type=kind, folder_path=stage, commit_message=message
        )
    except Exception as error:  # no network, no token, no right, a bad name: classes of many kinds
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{target.repo} was not reached or takes nothing ({type(error).__name__}: {why}): log"
            " in with 'hf auth login', look at the network, or push into a folder (./NAME)"
        ) from None
    return f"https://huggingface.co/{'datasets/' if kind == RESULTS else ''}{target.repo}"
