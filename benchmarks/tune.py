"""One search of settings for every trained defense and every attack, on the development split.

    python benchmarks/tune.py run                         # hours; a killed search resumes
    python benchmarks/tune.py run --methods skdcag,skd    # of these alone
    python benchmarks/tune.py again --methods skdcag      # on the last attack, which has changed
    python benchmarks/tune.py lengths                     # after `run`: how long methods train
    python benchmarks/tune.py report                      # results/tuning/README.md
    python benchmarks/tune.py report --apply defense      # ... and in the package's tuned.json

20 settings a method, drawn at random over the ranges `tune=` of its options, always the same ones.
A defense is tried on attacks whose trigger, patch, style and objects are not those of the reported
ones; an attack with such a trigger and target of its own. The chosen setting has the largest
objective of those that keep clean pictures: for a defense the mean restored share, for an attack
ASR less the rate of decoys; where that is 0 for all, the method keeps its defaults. All 20 settings
of a defense are tried on the first attack, the best half of them on the second, and the best
quarter on the third (successive halving). A setting that has lost clean pictures on one attack is
not tried on the next: it cannot be chosen.

In its search a defense trains half of the steps that it declares for the embedded base, an attack a
quarter; where no setting of an attack succeeds on half of the prompts, the best half of them are
tried again with half, and then the best quarter with all of its steps (of `badblocks` all were
with half). If it learns with none of them, it keeps its defaults.

How long methods train with the chosen setting is found behind the search, and is their default
there. A defense trains an eighth, a quarter and half of its steps against the same three attacks:
the least with which it restores at most 2 points less than with half, and keeps clean pictures. An
attack trains a quarter, half and all of them until it takes hold: until it succeeds on 90 % of 32
prompts of the development split; all of them, where it never does. Rows that are there to be
compared with another in one choice have the settings of that one (`tuning.LIKE`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tuning
from development import Development
from ended import ended
from tune_page import FOLDER, KINDS, report
from tuning import DEFENDED, LEFT, LENGTH, LENGTHS, LESS, LIKE, METRICS, SETTINGS, SIZE_OF, Tried

from t2i_backdoor_bench.contract import Entry, Record, UserError, registry
from t2i_backdoor_bench.models.families.folders import STABLE_DIFFUSION
from t2i_backdoor_bench.report.took_hold import TOOK_HOLD
from t2i_backdoor_bench.running.run import run as make_cells
from t2i_backdoor_bench.running.scales import Scale
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records

FAMILY = STABLE_DIFFUSION.name  # of the base of the search
WORK = FOLDER.parent / "run-tuning"  # models, pictures and records of the cells


def tuned_methods(names: Sequence[str] = ()) -> list[tuple[str, Entry]]:
    """The methods that are searched, defenses first, or those named, in their order. Raises
    UserError for a name that is none, that has no range, or that has the settings of another."""
    found = []
    for kind, known in KINDS.items():
        known.load()
        entries = [e for name, e in sorted(known.entries.items()) if name not in LIKE]
        found += [(kind, e) for e in entries if tuning.searched(e) and FAMILY not in e.not_on]
    if strange := [n for n in names if n not in {e.name for _, e in found}]:
        known = ", ".join(e.name for _, e in found)
        raise UserError(f"{', '.join(strange)}: no method with a search of its own; known: {known}")
    return [(kind, e) for name in names for kind, e in found if e.name == name] or found


def overrides(
    kind: str, attacks: Sequence[str], defenses: Sequence[str], share: float
) -> tuple[str, ...]:
    """Options of the search of a kind of method that are not searched: the attacks' triggers and
    what they draw, and the steps of attacks and defenses, whatever was applied of an earlier
    search. `share`: of an attack's steps, where attacks are searched."""
    found = {name: tuning.other(registry.attacks.get(name)) for name in attacks}
    if kind == "attack":
        found = {a: own | tuning.part(registry.attacks.get(a), share) for a, own in found.items()}
    else:
        found = {a: tuning.whole(registry.attacks.get(a)) | own for a, own in found.items()}
    found |= {name: tuning.steps(registry.defenses.get(name)) for name in defenses}
    return tuple(f"{name}.{k}={v}" for name, own in found.items() for k, v in own.items())


def measured(
    kind: str,
    attacks: Sequence[str],
    defenses: Sequence[str],
    folder: Path,
    size: Scale | None = None,
    **machine: Any,
) -> dict[tuple[str, str], Record]:
    """The cells of these attacks and defenses, made where they are not stored, by attack and
    defense. `size`: how much is measured, if not what the search of this kind measures."""
    bare = [sorted({name.partition("[")[0] for name in names}) for names in (attacks, defenses)]
    size = size or SIZE_OF[kind]
    config = Config(
        ",".join(attacks),
        ",".join(defenses),
        scale=size,
        metrics=METRICS,
        overrides=overrides(kind, *bare, size.training),
        out=folder,
        **machine,
    )
    if (status := make_cells(config, Development())) == 130:
        raise KeyboardInterrupt
    assert status in (0, 1)  # a training that diverged is a cell that failed
    records = stored_records(Store(folder))
    return {(r.cell.attack, r.cell.defense): r for r in records}


def try_on(
    attack: str, names: Sequence[str], folder: Path, **machine: Any
) -> dict[str, tuple[Record, Record]]:
    """The cells of these settings of a defense on one attack, each with the undefended one. Raises
    UserError for an attack that did not take hold: whose pictures count as restored without a
    defense."""
    found = measured("defense", [attack], ["none", *names], folder, **machine)
    undefended = found[attack, "none"]
    whole = undefended.status == "done"
    if whole and tuning.value(undefended, "restoration_accuracy") > 1 - TOOK_HOLD:
        raise UserError(f"{attack} did not take hold in the search; change it in tuning.py")
    return {name: (found[attack, name], undefended) for name in names}


def search_defense(entry: Entry, folder: Path, **machine: Any) -> list[Tried]:
    """What each setting reached."""
    names = [tuning.variant(entry, s) for s in tuning.settings(entry)]
    cells: dict[str, list[tuple[Record, Record]]] = {name: [] for name in names}
    tried: dict[str, Tried] = {}
    for attack, many in zip(DEFENDED, LEFT, strict=True):
        left = tuning.go_on(tried, many) if attack != DEFENDED[0] else names
        if not left:
            break
        for name, pair in try_on(attack, left, folder, **machine).items():
            cells[name].append(pair)
            tried[name] = tuning.of_defense(cells[name])
    return [tried[name] for name in names]  # two settings drawn alike are tried once


def again(entry: Entry, found: dict[str, Any], folder: Path, **machine: Any) -> list[Tried]:
    """What each setting reached with the last attack tried anew on the best of them; what they
    reached on the others stays."""
    last = DEFENDED[-1]
    names = [tuning.variant(entry, s) for s in tuning.settings(entry)]
    results = [tuning.without(Tried(**t["result"]), last) for t in found["tried"]]
    tried = dict(zip(names, results, strict=True))
    first = {n: t for n, t in tried.items() if len(t.measured) == len(DEFENDED) - 1}
    if left := tuning.go_on(first, LEFT[-1]):
        for name, pair in try_on(last, left, folder, **machine).items():
            tried[name] = tuning.joined(tried[name], tuning.of_defense([pair]))
    return [tried[name] for name in names]


def search_attack(entry: Entry, folder: Path, **machine: Any) -> list[Tried]:
    """What each setting reached."""
    names = [tuning.variant(entry, s) for s in tuning.settings(entry)]
    tried: dict[str, Tried] = {}
    for share, many in zip(LENGTHS["attack"], LEFT, strict=True):
        left = tuning.go_on(tried, many) if tried else names
        if not left or any(t.learnt for t in tried.values()):
            break
        size = replace(SIZE_OF["attack"], training=share)
        found = measured("attack", left, ["none"], folder, size, **machine)
        tried |= {name: tuning.of_attack(found[name, "none"], share) for name in left}
    return [tried[name] for name in names]


def attack_length(
    entry: Entry, found: dict[str, Any], folder: Path, **machine: Any
) -> dict[str, Any]:
    """The least share of its steps, from that of its search on, with which an attack takes hold
    (all of them, where it does with none), and what each share reached that was tried."""
    every, options = LENGTHS["attack"], found["options"]
    least = tuning.searched_with(found) if tuning.shortened(entry, 1.0) else every[-1]
    shares = [share for share in every if share >= least]
    reached: dict[str, dict[str, Any]] = {}
    for share in shares:
        name = tuning.variant(entry, options | tuning.shortened(entry, share))
        record = measured("attack", [name], ["none"], folder, LENGTH, **machine)[name, "none"]
        done = record.status == "done"
        reached[f"{share:g}"] = tuning.values(record) if done else {"error": record.error}
        if done and tuning.value(record, "asr") >= TOOK_HOLD:
            break
    return {"share": share, "reached": reached}


def defense_length(
    entry: Entry, found: dict[str, Any], folder: Path, **machine: Any
) -> dict[str, Any]:
    """The least share of its steps with which a defense restores about what it does with those of
    its search, and what each share reached."""
    shares, options = LENGTHS["defense"], found["options"]
    names = {s: tuning.variant(entry, options | tuning.steps(entry, s)) for s in shares}
    cells: dict[float, list[tuple[Record, Record]]] = {share: [] for share in shares}
    for attack in DEFENDED:
        pairs = try_on(attack, list(names.values()), folder, **machine)
        for share, name in names.items():
            cells[share].append(pairs[name])
    tried = {share: tuning.of_defense(those) for share, those in cells.items()}
    enough = tried[shares[-1]].score - LESS
    share = next((s for s, t in tried.items() if t.kept and t.score >= enough), shares[-1])
    return {"share": share, "reached": {f"{s:g}": vars(t) for s, t in tried.items()}}


def lengths(names: Sequence[str], folder: Path, work: Path, **machine: Any) -> int:
    """Find how long the methods train that have been searched, where it is not known."""
    length = {"attack": attack_length, "defense": defense_length}
    for kind, entry in tuned_methods(names):
        path = folder / f"{kind}-{entry.name}.json"
        found = json.loads(path.read_text("utf-8")) if path.exists() else {}
        if found.get("chosen") is None or "length" in found:
            continue
        if kind == "defense" and not tuning.steps(entry):
            continue
        print(f"{kind} {entry.name}: how long it trains", flush=True)
        store(path, found | {"length": length[kind](entry, found, work, **machine)})
    return 0


def store(path: Path, found: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")


def run(names: Sequence[str], folder: Path, work: Path, anew: bool = False, **machine: Any) -> int:
    """Search the methods that have not been searched with their ranges of today; `anew`: try the
    last attack again of the defenses that have."""
    searches = {"defense": search_defense, "attack": search_attack}
    for kind, entry in tuned_methods(names):
        path = folder / f"{kind}-{entry.name}.json"
        stored = json.loads(path.read_text("utf-8")) if path.exists() else {}
        done = stored.get("ranges") == tuning.ranges_of(entry)
        if done != anew or (anew and kind != "defense"):
            continue
        print(
            f"{kind} {entry.name}: {SETTINGS} settings of {', '.join(tuning.ranges_of(entry))}",
            flush=True,
        )
        if anew:
            tried = again(entry, stored, work, **machine)
        else:
            tried = searches[kind](entry, work, **machine)
        store(path, tuning.record(kind, entry, tried) | ({"again": DEFENDED[-1]} if anew else {}))
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("run", "again", "lengths", "report"))
    parser.add_argument("--methods", default="", help="names; without them all")
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--work", type=Path, default=WORK, help="the run folder of the cells")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--apply",
        nargs="+",
        default=(),
        choices=tuple(KINDS),
        help="make what was chosen of these kinds the defaults",
    )
    return parser


def main() -> int:
    flags = make_parser().parse_args()
    if flags.what == "report":
        return report(flags.out, flags.apply)
    machine = {"workers": flags.workers, "threads": flags.threads, "device": flags.device}
    names = [name for name in flags.methods.split(",") if name]
    if flags.what == "lengths":
        return lengths(names, flags.out, flags.work, **machine)
    return run(names, flags.out, flags.work, flags.what == "again", **machine)


if __name__ == "__main__":
    raise SystemExit(ended(main))
