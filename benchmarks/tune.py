"""One search of settings for every trained defense and every attack, on the development split.

    python benchmarks/tune.py run                         # hours; a killed search resumes
    python benchmarks/tune.py run --methods skdcag,skd    # of these alone
    python benchmarks/tune.py again --methods skdcag      # on the last attack, which has changed
    python benchmarks/tune.py report                      # results/tuning/README.md
    python benchmarks/tune.py report --apply defense      # ... and in the package's tuned.json

20 settings a method, drawn at random over the ranges `tune=` of its options, always the same ones.
A defense is tried on attacks whose trigger, patch, style and objects are not those of the reported
ones; an attack with such a trigger and target of its own. The chosen setting has the largest
objective of those that keep clean pictures: for a defense the mean restored share, for an attack
ASR less the rate of decoys. All 20 settings of a defense are tried on the first attack, the best
half of them on the second, and the best quarter on the third (successive halving). A setting that
has lost clean pictures on one attack is not tried on the next: it cannot be chosen. A defense
trains half of the steps that it declares for the embedded base, and keeps these as its default
there (half_steps.py compares both). Rows that are there to be compared with another in one choice
have the settings of that one (`tuning.LIKE`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tuning
from tuning import DEFENDED, LEFT, LIKE, METRICS, SETTINGS, SIZE_OF, Development, Tried

from t2i_backdoor_bench.contract import Entry, Record, UserError, registry
from t2i_backdoor_bench.report.took_hold import TOOK_HOLD
from t2i_backdoor_bench.running.run import run as make_cells
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "results" / "tuning"
WORK = ROOT / "results" / "run-tuning"  # models, pictures and records of the cells
APPLIED = ROOT / "bench" / "contract" / "tuned.json"
KINDS = {"defense": registry.defenses, "attack": registry.attacks}


def tuned_methods(names: Sequence[str] = ()) -> list[tuple[str, Entry]]:
    """The methods that are searched, defenses first, or those named, in their order. Raises
    UserError for a name that is none, that has no range, or that has the settings of another."""
    found = []
    for kind, known in KINDS.items():
        known.load()
        entries = [e for name, e in sorted(known.entries.items()) if name not in LIKE]
        found += [(kind, e) for e in entries if tuning.searched(e)]
    if strange := [n for n in names if n not in {e.name for _, e in found}]:
        known = ", ".join(e.name for _, e in found)
        raise UserError(f"{', '.join(strange)}: no method with a search of its own; known: {known}")
    return [(kind, e) for name in names for kind, e in found if e.name == name] or found


def overrides(kind: str, attacks: Sequence[str], defenses: Sequence[str]) -> tuple[str, ...]:
    """Options of the search of a kind of method that are not searched: the attacks' triggers and
    what they draw; for a defense also the steps of attacks and defenses, whatever was applied of an
    earlier search."""
    found = {name: tuning.other(registry.attacks.get(name)) for name in attacks}
    if kind == "defense":
        found = {a: tuning.whole(registry.attacks.get(a)) | own for a, own in found.items()}
    found |= {name: tuning.steps(registry.defenses.get(name)) for name in defenses}
    return tuple(f"{name}.{k}={v}" for name, own in found.items() for k, v in own.items())


def measured(
    kind: str, attacks: Sequence[str], defenses: Sequence[str], folder: Path, **machine: Any
) -> dict[tuple[str, str], Record]:
    """The cells of these attacks and defenses, made where they are not stored, by attack and
    defense."""
    bare = [sorted({name.partition("[")[0] for name in names}) for names in (attacks, defenses)]
    config = Config(
        ",".join(attacks),
        ",".join(defenses),
        scale=SIZE_OF[kind],
        metrics=METRICS,
        overrides=overrides(kind, *bare),
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
    UserError for an attack that did not take hold: what is restored of it was never broken."""
    found = measured("defense", [attack], ["none", *names], folder, **machine)
    undefended = found[attack, "none"]
    if undefended.status == "done" and tuning.value(undefended, "asr") < TOOK_HOLD:
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
    found = measured("attack", names, ["none"], folder, **machine)
    return [tuning.of_attack(found[name, "none"]) for name in names]


def ranges_of(entry: Entry) -> dict[str, list[Any]]:
    return {n: list(o.tune) for n, o in tuning.searched(entry).items()}


def searched(kind: str, entry: Entry, tried: Sequence[Tried]) -> dict[str, Any]:
    """All settings of a method, what each reached, and which is chosen."""
    chosen = tuning.best(tried)
    drawn = tuning.settings(entry)
    return {
        "kind": kind,
        "method": entry.name,
        "ranges": ranges_of(entry),
        "tried": [s | {"result": vars(t)} for s, t in zip(drawn, tried, strict=True)],
        "chosen": chosen,
        "options": drawn[chosen] if chosen is not None else {},
    }


def run(names: Sequence[str], folder: Path, work: Path, anew: bool = False, **machine: Any) -> int:
    """Search the methods that have not been searched with their ranges of today; `anew`: try the
    last attack again of the defenses that have."""
    searches = {"defense": search_defense, "attack": search_attack}
    for kind, entry in tuned_methods(names):
        path = folder / f"{kind}-{entry.name}.json"
        stored = json.loads(path.read_text("utf-8")) if path.exists() else {}
        done = stored.get("ranges") == ranges_of(entry)
        if done != anew or (anew and kind != "defense"):
            continue
        print(
            f"{kind} {entry.name}: {SETTINGS} settings of {', '.join(ranges_of(entry))}", flush=True
        )
        if anew:
            tried = again(entry, stored, work, **machine)
        else:
            tried = searches[kind](entry, work, **machine)
        path.parent.mkdir(parents=True, exist_ok=True)
        found = searched(kind, entry, tried) | ({"again": DEFENDED[-1]} if anew else {})
        path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return 0


def tried_again(searches: Sequence[dict[str, Any]]) -> list[str]:
    """The searches whose last attack was tried anew, as lines of the page."""
    names = [f"`{s['method']}`" for s in searches if s.get("again")]
    if not names:
        return []
    return [
        f"Of {', '.join(names)} the last attack was tried anew (`tune.py again`): `badt2i_pixel`"
        " had not learnt the patch that the search had first (12.5 %), so that most of what was"
        " restored had never been broken. Their first two attacks trained half of their steps, and"
        " succeeded on all pictures; but of `trace_mend`, where pictures were drawn in 10 steps,"
        " `badt2i_style` on 66 %, of which nothing was restored without a defense.",
        "",
    ]


def not_applied(searches: Sequence[dict[str, Any]], apply: Sequence[str]) -> list[str]:
    """What is chosen and no default yet, as lines of the page."""
    known = json.loads(APPLIED.read_text("utf-8"))
    kinds = {s["kind"] for s in searches if s["kind"] not in apply and not known.get(s["kind"])}
    return [
        line
        for kind in sorted(kinds)
        for line in (f"What was chosen of each {kind} is not its default yet.", "")
    ]


def report(folder: Path, apply: Sequence[str]) -> int:
    searches = [json.loads(p.read_text("utf-8")) for p in sorted(folder.glob("*-*.json"))]
    lines = [
        "# The search of settings",
        "",
        "Written by `python benchmarks/tune.py report` from the records beside it, which"
        " `python benchmarks/tune.py run` made. How it is done, and why: the first lines of"
        " [tune.py](../../benchmarks/tune.py). Defenses keep the steps of the search: half of those"
        " that they declare, [compared with all of them](half-steps.md).",
        "",
        *tried_again(searches),
        *not_applied(searches, apply),
        "| method | kind | settings | kept clean pictures | objective of the chosen, on how many"
        " attacks | range of the kept | chosen |",
        "|---|---|---|---|---|---|---|",
    ]
    for found in searches:
        results = [t["result"] for t in found["tried"]]
        kept = [t["score"] for t in results if t["kept"]]
        chosen = results[found["chosen"]] if found["chosen"] is not None else None
        best = f"{100 * chosen['score']:.1f} %, {len(chosen['measured'])}" if chosen else "-"
        spread = f"{100 * min(kept):.1f} to {100 * max(kept):.1f} %" if kept else "-"
        options = ", ".join(f"{k} {v}" for k, v in found["options"].items()) or "none kept them"
        lines.append(
            f"| `{found['method']}` | {found['kind']} | {len(results)} | {len(kept)} | {best} |"
            f" {spread} | {options} |"
        )
    (folder / "README.md").write_text("\n".join(lines) + "\n", "utf-8")
    if apply:
        defaults = json.loads(APPLIED.read_text("utf-8"))
        defaults |= {kind: defaults_of(kind, searches) for kind in apply}
        APPLIED.write_text(json.dumps(defaults, indent=1) + "\n", "utf-8")
    return 0


def defaults_of(kind: str, searches: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What the package keeps of the searches of a kind, by the name of a method."""
    found: dict[str, dict[str, Any]] = {}
    for s in (s for s in searches if s["kind"] == kind):
        like = [name for name, other in LIKE.items() if other == s["method"]]
        for name in (s["method"], *like):
            options = tuning.applied(kind, KINDS[kind].get(name), s["options"])
            found[name] = {"settings": len(s["tried"]), "options": options}
    return found


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("run", "again", "report"))
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
    try:
        if flags.what == "report":
            return report(flags.out, flags.apply)
        machine = {"workers": flags.workers, "threads": flags.threads, "device": flags.device}
        names = [name for name in flags.methods.split(",") if name]
        return run(names, flags.out, flags.work, flags.what == "again", **machine)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
