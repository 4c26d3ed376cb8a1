"""`submit`: a run folder is checked, freed of private paths, and packed for others."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from t2i_backdoor_bench.contract import Record, UserError, registry
from t2i_backdoor_bench.contract.printable import visible
from t2i_backdoor_bench.running.agreement import damaged_files, disagreements
from t2i_backdoor_bench.running.plan import Plan, plan, with_metrics
from t2i_backdoor_bench.running.verify import MOST, check_protocol, open_run, stored_by_key, to_redo
from t2i_backdoor_bench.store import provenance
from t2i_backdoor_bench.store.archives import pack
from t2i_backdoor_bench.store.atomic import write_text
from t2i_backdoor_bench.store.claims import records_digest
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.private_paths import paths_in, stripped
from t2i_backdoor_bench.store.record_format import as_json
from t2i_backdoor_bench.store.signatures import check_key, sign

# of a run folder, what others need: neither samples nor weights, which `accept` makes again, nor
# figures, which another matplotlib draws otherwise
FOLDERS = ("prompts", "sources")
ENDINGS = (".csv", ".md", ".tex", ".html")


@dataclass(frozen=True)
class Maker:
    """Who hands a run in: as the site shows it."""

    by: str
    title: str = ""
    contact: str = ""


@dataclass(frozen=True)
class Writers:
    """What is written of records in another room: which files are not what the records give, the
    tables and the report of a folder, and one claim an attack and defense, by file name."""

    changed_files: Callable[[Store], list[str]]
    publish: Callable[[Store], None]
    claims: Callable[[Store], Mapping[str, Any]]


def submit(
    folder: Path, archive: Path, maker: Maker, writers: Writers, key: Path | None = None
) -> int:
    """Check the run in `folder` and pack it, signed where there is an SSH `key`. Returns 0, or 1
    where something is wrong, which is printed. Raises UserError where the folder is no finished
    run, or `archive` exists."""
    if archive.exists():
        raise UserError(f"{archive} exists: name another file with --out")
    if not maker.by.strip():
        raise UserError("--by is empty: give the name that the site shall show")
    check_key(key)
    store, manifest, config = open_run(folder, fetch=False)
    with tempfile.TemporaryDirectory() as elsewhere:
        plan_ = plan(to_redo(config, Path(elsewhere) / "again"))
        records = stored_by_key(plan_, store, manifest)
        check_protocol(store, [r for r in records.values() if r.status == "done"])
        wrong = [*faults(plan_, store, manifest, records), *writers.changed_files(store)]
        if wrong:
            more = [f"and {len(wrong) - MOST} more"] if len(wrong) > MOST else []
            _print(f"{folder} cannot be submitted:", [*wrong[:MOST], *more])
            return 1
        name = folder.resolve().name
        copy = Store(Path(elsewhere) / "copy", lambda text: None)
        copy_run(store, copy, manifest, records, name)
        writers.publish(copy)
        made = datetime.now(UTC).strftime("%Y-%m-%d")
        claim = {"records": records_digest(copy), "made": made}
        copy.write_record("claim", asdict(maker) | claim | {"title": maker.title or name})
        if key:
            sign(copy.path("claim.json"), key)
        claims = writers.claims(copy)
        for file, found in claims.items():
            place = copy.root / "claims" / file
            place.parent.mkdir(exist_ok=True)
            write_text(place, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        pack(copy.root, archive, name)
    _print(f"{archive}: {len(records)} records, {len(claims)} claims", notes(records, config.scale))
    return 0


def _print(head: str, rest: Sequence[str]) -> None:
    print("\n".join(visible(line) for line in [head, *(f"  {text}" for text in rest)]))


def faults(
    plan_: Plan, store: Store, manifest: Mapping[str, Any], records: Mapping[str, Record]
) -> list[str]:
    """Why a run cannot be handed in: what `verify` finds without drawing, what is not whole, code
    that nobody else can have, and private paths that the numbers depend on."""
    known = registry.metrics.entries
    wide = with_metrics(plan_, {m for r in records.values() for m in r.scores if m in known})
    wrong = [*disagreements(plan_, wide, store, manifest, records), *damaged_files(store)]
    if absent := len({c.key for c in plan_.cells} - set(records)):
        wrong.append(f"{absent} of its {len(plan_.cells)} cells have not run: run it to its end")
    return [*wrong, *_of_code(list(records.values())), *_private(manifest, records)]


def _of_code(records: Sequence[Record]) -> Iterator[str]:
    codes = [c for record in records for c in provenance.codes_of(record)]
    if any(not code for code in codes):
        yield "records do not name the code that made them"
    if any(code and code["dirty"] for code in codes):
        yield "records name code with changes that no commit has: commit them, and run with --fresh"
    if twice := provenance.trained_twice(records):
        yield f"attacks were trained more than once: {', '.join(twice)}"


def _private(manifest: Mapping[str, Any], records: Mapping[str, Record]) -> Iterator[str]:
    asked = {k: v for k, v in manifest.get("config", {}).items() if k != "out"}
    found = list(paths_in(asked, "run.json, config"))
    for record in records.values():
        found += paths_in(dict(record.cell.config), "the configuration of cells")
    for text in dict.fromkeys(found):
        yield (
            f"{text} is a path of this machine, and numbers depend on it: give the model or the"
            " data by the id of a hub, or by a path relative to the folder of the command"
        )


def copy_run(
    store: Store, copy: Store, manifest: Mapping[str, Any], records: Mapping[str, Record], name: str
) -> None:
    """Copy what others need of a run, without private paths: in run.json and run.yaml the folder's
    name stands for its place, and messages of errors and notes keep the last part of a path."""
    plan_ = dict(manifest) | {"config": dict(manifest["config"]) | {"out": name}}
    copy.write_record("run", plan_)
    for key, record in records.items():
        payload = as_json(record)
        payload["error"] = stripped(record.error)
        for score in payload["scores"].values():
            score["note"] = stripped(score["note"])
        copy.write_record(f"cells/{key}", payload)
    settings = store.path("run.yaml")
    if settings.is_file():
        lines = settings.read_text(encoding="utf-8").splitlines()
        kept = [f"out: {json.dumps(name)}" if t.startswith("out:") else t for t in lines]
        write_text(copy.path("run.yaml"), "\n".join(kept) + "\n")
    for room in FOLDERS:
        for path in store.files(room, ".json"):
            (copy.root / room).mkdir(exist_ok=True)
            shutil.copyfile(path, copy.path(f"{room}/{path.name}"))
    for ending in ENDINGS:
        for path in store.files("", ending):
            shutil.copyfile(path, copy.path(path.name))


def notes(records: Mapping[str, Record], scale: Any) -> Iterator[str]:
    """What does not keep a run from being handed in, and is shown with it."""
    seeds = {r.cell.seed for r in records.values()}
    if len(seeds) < 3:
        yield f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}: rules ask for three for a rank"
    if scale.name == "smoke":
        yield "scale smoke: it shows that everything works, and has no rank"
    if any("first_of" in r.protocol.get("evaluation", {}) for r in records.values()):
        yield "a trial with the first prompts alone (--limit): it has no rank"
    if failed := sum(r.status != "done" for r in records.values()):
        yield f"{failed} cells failed: rows without a result have no rank"
    if text := provenance.warning(list(records.values())):
        yield text
