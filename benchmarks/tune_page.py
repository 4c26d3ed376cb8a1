"""The page of the search of settings (results/tuning/README.md), and what of it is a default."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tuning
from tuning import LIKE

from t2i_backdoor_bench.contract import registry
from t2i_backdoor_bench.contract.printable import visible
from t2i_backdoor_bench.report.took_hold import TOOK_HOLD

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "results" / "tuning"
TRIGGERS = "triggers.json"  # in it
APPLIED = ROOT / "bench" / "contract" / "tuned.json"
AVERAGED = (
    "When `skdcag`, `skd`, `skdcag_text` and `trace_mend` were searched, they averaged their"
    " weights (`ema` 0.99). They do not any more, as no other method does.",
    "",
)
KINDS = {"defense": registry.defenses, "attack": registry.attacks}


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
    left = [
        f"`{s['method']}`"
        for s in searches
        if s["chosen"] is not None
        and s["method"]
        not in (defaults_of(s["kind"], [s]) if s["kind"] in apply else known[s["kind"]])
    ]
    return (
        [f"Searched, and what was chosen is no default yet: {', '.join(left)}.", ""] if left else []
    )


def not_searched() -> list[str]:
    """Which rows have the settings of another, as lines of the page."""
    others = list(dict.fromkeys(LIKE.values()))
    rows = {o: ", ".join(f"`{n}`" for n, of in LIKE.items() if of == o) for o in others}
    said = "; ".join(f"of `{other}`: {names}" for other, names in rows.items())
    return [
        "Rows that differ from another in one choice were not searched by themselves, so that this"
        f" choice is all that is compared. They have the settings {said}.",
        "",
    ]


def report(folder: Path, apply: Sequence[str]) -> int:
    searches = [json.loads(p.read_text("utf-8")) for p in sorted(folder.glob("*-*.json"))]
    lines = [
        "# The search of settings",
        "",
        "Written by `python benchmarks/tune.py report` from the records beside it, which"
        " `python benchmarks/tune.py run` made. How it is done, and why: the first lines of"
        " [tune.py](../../benchmarks/tune.py).",
        "",
        "*Objective*: of a defense the mean of what it restores, of an attack ASR less the rate at"
        " which decoys fire, after a quarter of its steps unless the table says how many."
        " *Kept clean pictures*: settings that lose at most"
        f" {100 * tuning.MARGIN:.0f} points of prompt fidelity on clean prompts, and of an attack"
        f" have at most {100 * tuning.MOST_FALSE:.0f} % of false triggers.",
        "",
        *tried_again(searches),
        *not_applied(searches, apply),
        *not_searched(),
        *AVERAGED,
        "| method | kind | settings | kept clean pictures | objective of the chosen, on how many"
        " attacks | range of the kept | chosen |",
        "|---|---|---|---|---|---|---|",
    ]
    for found in searches:
        results = [t["result"] for t in found["tried"]]
        kept = [t["score"] for t in results if t["kept"]]
        chosen = results[found["chosen"]] if found["chosen"] is not None else None
        best = f"{100 * chosen['score']:.1f} %, {len(chosen['measured'])}" if chosen else "-"
        best += more_steps(chosen["measured"]) if chosen else ""
        spread = f"{100 * min(kept):.1f} to {100 * max(kept):.1f} %" if kept else "-"
        options = ", ".join(f"{k} {v}" for k, v in found["options"].items()) or (
            (
                "none: it learns with none"
                if found["kind"] == "attack"
                else "none: nothing is reached"
            )
            if kept
            else "none kept them"
        )
        lines.append(
            f"| `{found['method']}` | {found['kind']} | {len(results)} | {len(kept)} | {best} |"
            f" {spread} | {options} |"
        )
    lines += attack_lengths(searches) + trigger_lengths(folder) + defense_lengths(searches)
    (folder / "README.md").write_text("\n".join(lines) + "\n", "utf-8")
    if apply:
        defaults = json.loads(APPLIED.read_text("utf-8"))
        defaults |= {kind: defaults_of(kind, searches) for kind in apply}
        APPLIED.write_text(json.dumps(defaults, indent=1) + "\n", "utf-8")
    return 0


def more_steps(measured: Mapping[str, Mapping[str, float]]) -> str:
    """With which share of its steps an attack was searched, where that was not the usual one."""
    usual = tuning.SIZE_OF["attack"].training
    shares = [v["share"] for v in measured.values() if v.get("share", usual) != usual]
    return f" ({', '.join(f'{100 * s:.0f} %' for s in shares)} of its steps)" if shares else ""


def attack_lengths(searches: Sequence[dict[str, Any]]) -> list[str]:
    """How long attacks train, as lines of the page."""
    found = [s for s in searches if s["kind"] == "attack" and "length" in s]
    if not found:
        return []
    shares = [f"{share:g}" for share in tuning.LENGTHS["attack"]]
    lines = [
        "",
        "## How long attacks train",
        "",
        "`python benchmarks/tune.py lengths`: with its chosen setting an attack trains a quarter,"
        " half and all of the steps that it declares, from the share of its search on, until it"
        f" succeeds on {100 * TOOK_HOLD:.0f} % of 32 prompts of the development split. Where it"
        " never does, it trains all of them, and so does an attack of which no setting was chosen."
        " `eviledit` and others that solve for their weights train no steps.",
        "",
        "| attack | a quarter, ASR % | half, ASR % | all, ASR % | steps |",
        "|---|---:|---:|---:|---:|",
    ]
    for s in found:
        reached = [s["length"]["reached"].get(share, {}).get("asr") for share in shares]
        asr = " | ".join("-" if a is None else f"{100 * a:.1f}" for a in reached)
        entry = KINDS["attack"].get(s["method"])
        steps = ", ".join(map(str, tuning.shortened(entry, s["length"]["share"]).values())) or "-"
        lines.append(f"| `{s['method']}` | {asr} | {steps} |")
    return lines


def trigger_lengths(folder: Path) -> list[str]:
    """How long attacks train with the triggers of the suite `reference`, as lines of the page."""
    path = folder / TRIGGERS
    found = json.loads(path.read_text("utf-8")) if path.exists() else {}
    if not found:
        return []
    shares = [f"{share:g}" for share in tuning.LENGTHS["attack"]]
    lines = [
        "",
        "## How long attacks train with other kinds of trigger",
        "",
        "`python benchmarks/trigger_lengths.py`: the same, with the triggers that the suite"
        " `reference` gives the attacks and the targets that are reported. A letter that nobody"
        " sees is written as its number.",
        "",
        "| attack | a quarter, ASR % | half, ASR % | all, ASR % |",
        "|---|---:|---:|---:|",
    ]
    for attack, length in found.items():
        reached = [length["reached"].get(share, {}).get("asr") for share in shares]
        asr = " | ".join("-" if a is None else f"{100 * a:.1f}" for a in reached)
        lines.append(f"| `{visible(attack)}` | {asr} |")
    return lines


def defense_lengths(searches: Sequence[dict[str, Any]]) -> list[str]:
    """How long defenses train, as lines of the page."""
    found = [s for s in searches if s["kind"] == "defense" and "length" in s]
    if not found:
        return []
    shares = [f"{share:g}" for share in tuning.LENGTHS["defense"]]
    lines = [
        "",
        "## How long defenses train",
        "",
        "`python benchmarks/tune.py lengths`: with its chosen setting a defense trains an eighth, a"
        " quarter and half of the steps that it declares, against the three attacks of the search,"
        " 32 prompts each. Its default is the least with which it restores at most"
        f" {100 * tuning.LESS:.0f} points less, in the mean, than with half, and keeps clean"
        " pictures. [The study of training steps](../README.md#studies) tries up to all of them"
        " for four defenses.",
        "",
        "| defense | an eighth, restored % | a quarter, restored % | half, restored % | steps |",
        "|---|---:|---:|---:|---:|",
    ]
    for s in found:
        reached = [s["length"]["reached"][share] for share in shares]
        cells = [f"{100 * t['score']:.1f}" + ("" if t["kept"] else " (loses)") for t in reached]
        entry = KINDS["defense"].get(s["method"])
        steps = tuning.steps(entry, s["length"]["share"])["steps"]
        lines.append(f"| `{s['method']}` | {' | '.join(cells)} | {steps} |")
    if any("(loses)" in line for line in lines):
        lines += ["", "*loses*: clean pictures lose more than the margin of the search."]
    return lines


def defaults_of(kind: str, searches: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What the package keeps of the searches of a kind, by the name of a method: of an attack once
    it is known how long it trains, or that no setting is better than what it declares."""
    found: dict[str, dict[str, Any]] = {}
    for s in (s for s in searches if s["kind"] == kind):
        if kind == "attack" and s["chosen"] is not None and "length" not in s:
            continue
        like = [name for name, other in LIKE.items() if other == s["method"]]
        for name in (s["method"], *like):
            share = s.get("length", {}).get("share")
            options = tuning.applied(kind, KINDS[kind].get(name), s["options"], share)
            found[name] = {"settings": len(s["tried"]), "options": options}
    return found
