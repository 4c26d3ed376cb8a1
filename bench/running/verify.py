"""Check a run folder: make one of its cells again in another folder, and compare the two."""

from __future__ import annotations

import dataclasses
import random
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from t2i_backdoor_bench.contract import PROTOCOL, Cell, Record, UserError
from t2i_backdoor_bench.contract.hashing import canonical
from t2i_backdoor_bench.contract.printable import visible
from t2i_backdoor_bench.running.cell import last_line, make_cell
from t2i_backdoor_bench.running.devices import find_device
from t2i_backdoor_bench.running.display import Display
from t2i_backdoor_bench.running.plan import Plan, plan
from t2i_backdoor_bench.running.preflight import preflight
from t2i_backdoor_bench.running.scales import Scale
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.store import provenance
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records

MOST = 12  # differences that are printed
MEASURED = (
    "seconds",
    "seconds_attack",
    "seconds_per_step",
    "seconds_picture",
    "peak_memory_mb",
    "detection_ms",
)


def verify(folder: Path, changed_tables: Callable[[Store], list[str]]) -> int:
    """Make a cell of the run in `folder` again in a temporary folder, from the base model on, and
    print how it compares with the stored one. `changed_tables` says which tables are not what the
    stored records give. The cell is chosen at random, so that nobody knows it in advance.

    Returns 0 where everything is equal, 1 where something differs. Raises UserError where the
    folder is not a finished run.
    """
    if not folder.is_dir():
        raise UserError(f"there is no run folder {folder} to verify")
    display = Display()
    store = Store(folder, display.say)
    manifest = store.read_record("run")
    done = [r for r in stored_records(store) if r.status == "done"] if manifest else []
    if not done:
        raise UserError(
            f"{folder} holds no run.json with a finished cell: there is nothing to verify"
        )
    if done[0].measured_by != PROTOCOL:
        raise UserError(
            f"{folder} was measured by protocol {done[0].measured_by}, and this version measures by"
            f" protocol {PROTOCOL}: verify it with the version that made it (run.json names its"
            " commit)"
        )
    wrong = changed_tables(store)
    stored = random.SystemRandom().choice(done)
    name = f"{stored.cell.attack} x {stored.cell.defense}, seed {stored.cell.seed}"
    display.say(f"verify {name}, 1 of {len(done)} finished cells")
    with tempfile.TemporaryDirectory() as elsewhere:
        config = config_of(manifest, Path(elsewhere))
        plan_ = plan(config)
        cell = next((c for c in plan_.cells if c.key == stored.cell.key), None)
        if cell is None:
            wrong += other_configuration(plan_, stored.cell)
            compared = "its configuration"
        else:
            again, twin = make(plan_, cell, Path(elsewhere), display)
            wrong += compare_scores(stored, again, plan_)
            images, many = compare_images(store, twin, cell.key)
            wrong += images
            compared = f"{len(again.scores)} scores{f' and {many} images' if many else ''}"
    if not wrong:
        print(
            visible(
                f"{folder}: the tables are what the records give, and {name}, made again, has the"
                f" same {compared}"
            )
        )
        return 0
    print(visible(f"{folder}: {name}, made again, is not what is stored"))
    rest = [f"and {len(wrong) - MOST} more differences"] if len(wrong) > MOST else []
    for text in [*wrong[:MOST], *rest, *reasons(manifest, stored, config)]:
        print(f"  {visible(text)}")
    return 1


def config_of(manifest: Mapping[str, Any], out: Path) -> Config:
    """The configuration that a manifest describes, to run in `out`, in one process."""
    try:
        asked = {k: tuple(v) if isinstance(v, list) else v for k, v in manifest["config"].items()}
        scale = Scale(
            **{k: tuple(v) if isinstance(v, list) else v for k, v in asked["scale"].items()}
        )
        known = {f.name: asked[f.name] for f in dataclasses.fields(Config) if f.name in asked}
        known |= {"scale": scale, "n": None if asked["n"] == scale.n else asked["n"]}
    except (KeyError, TypeError, AttributeError):
        raise UserError("run.json does not describe a run of this program") from None
    return Config(
        **known
        | {"out": out, "workers": 1, "fresh": False, "renew": False, "attention_maps": False}
    )


def make(plan_: Plan, cell: Cell, folder: Path, display: Display) -> tuple[Record, Store]:
    """Make the cell from the base model on, and read it back from the new store in `folder`."""
    find_device(plan_.config.device)
    if plan_.config.threads:
        torch.set_num_threads(plan_.config.threads)
    twin = Store(folder, display.say)
    shared = Shared(plan_, twin, display)
    preflight(shared, [cell])
    display.open(1)
    display.start(f"{cell.attack} x {cell.defense}, seed {cell.seed}")
    try:
        make_cell(shared, cell)
    finally:
        display.close()
    found = twin.read_result(cell.key)
    assert found is not None
    return found, twin


def compare_scores(stored: Record, again: Record, plan_: Plan) -> list[str]:
    """What differs between two results of one cell: every number but the costs must be equal to the
    last bit."""
    if again.status != "done":
        return [f"it fails now: {last_line(again.error)}"]
    wrong = [
        f"{field}: stored {vars(stored)[field]}, now {vars(again)[field]}"
        for field in ("backdoor", "judge", "needs", "knowledge", "attack")
        if canonical(vars(stored)[field]) != canonical(vars(again)[field])
    ]
    keys = stored.metric_keys
    for name, now in again.scores.items():
        before = stored.scores.get(name)
        if name in MEASURED or keys.get(name) != plan_.metric_key(name):
            continue  # not measured, or measured with other options
        if before is None:
            wrong.append(f"{name}: not stored, now {now.value}")
        elif before != now:
            each = (
                f" ({unequal(before.each, now.each)} of {len(now.each)} images)"
                if before.each and now.each
                else ""
            )
            wrong.append(
                f"{name}: stored {before.value} [{before.low}, {before.high}], now {now.value}"
                f" [{now.low}, {now.high}]{each}"
            )
    return wrong


def unequal(a: list[Any], b: list[Any]) -> int:
    return sum(x != y for x, y in zip(a, b, strict=False)) + abs(len(a) - len(b))


def compare_images(store: Store, twin: Store, key: str) -> tuple[list[str], int]:
    """The differences between the stored images of a cell and the new ones, and the number of
    images that were compared: 0 where none are stored."""
    before, now = (s.read_arrays(f"samples/{key}") for s in (store, twin))
    if before is None or now is None:
        return [], 0
    wrong, many = [], 0
    for condition in sorted({*before[0], *now[0]}):
        a, b = before[0].get(condition), now[0].get(condition)
        if a is None or b is None or a.shape != b.shape:
            wrong.append(
                f"images of {condition}: stored {None if a is None else a.shape}, now"
                f" {None if b is None else b.shape}"
            )
            continue
        many += len(a)
        far = np.abs(a.astype(np.int16) - b).reshape(len(a), -1).max(1)
        if far.any():
            wrong.append(
                f"images of {condition}: {int((far > 0).sum())} of {len(a)} differ, by at most"
                f" {int(far.max())} of 255"
            )
    return wrong, many


def other_configuration(plan_: Plan, cell: Cell) -> list[str]:
    """How the configuration of a stored cell differs from the current one of the same names."""
    same = [
        c
        for c in plan_.cells
        if (c.attack, c.defense, c.seed) == (cell.attack, cell.defense, cell.seed)
    ]
    if not same:
        return ["its attack, defense and seed are not in the run that run.json describes"]
    before, now = leaves(cell.config), leaves(same[0].config)
    differ = [k for k in {**before, **now} if before.get(k) != now.get(k)]
    return [
        f"{k}: stored {before.get(k, 'nothing')}, now {now.get(k, 'nothing')}" for k in differ
    ] or ["its key is of another format"]


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """A nested value as {path: leaf}."""
    pairs = (
        value.items()
        if isinstance(value, Mapping)
        else enumerate(value)
        if isinstance(value, (list, tuple))
        else None
    )
    if pairs is None:
        return {path: value}
    return {
        k: v
        for name, inner in pairs
        for k, v in leaves(inner, f"{path}.{name}" if path else str(name)).items()
    }


def reasons(manifest: Mapping[str, Any], stored: Record, config: Config) -> list[str]:
    """Possible reasons for differences. Numbers are only reproducible with the same code, libraries
    and machine."""
    from t2i_backdoor_bench.running.manifest import hardware

    here = provenance.current_code()
    codes = provenance.codes_of(stored)
    found = []
    if any(c.get("source") != here["source"] for c in codes):
        names = ", ".join(dict.fromkeys(c.get("commit", "")[:9] or "unknown" for c in codes))
        found.append(
            f"the stored cell was made by other code (commit {names}; here"
            f" {here['commit'][:9] or 'unknown'})"
        )
    before = codes[-1].get("versions") or manifest.get("versions", {})
    for name, version in here["versions"].items():
        if before.get(name) != version:
            found.append(
                f"the stored cell was made with {name} {before.get(name, 'none')} (here {version})"
            )
    machine = hardware(config.device)
    for name in ("cpu", "gpu", "threads"):
        if (was := manifest.get("hardware", {}).get(name)) != machine.get(name):
            found.append(f"the run was made on {name} {was} (here {machine.get(name)})")
    return found
