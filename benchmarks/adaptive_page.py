"""The page of attackers who know the defense, and the suites with the attacks that they chose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attackers
import numpy as np
import tuning
from attackers import CANDIDATES, DEFENSES, EVALUATION, LEAST, MEASURE, hardened, kept, kind
from sentences import difference_text

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.pooling import pictures, pool
from t2i_backdoor_bench.report.took_hold import TOOK_HOLD
from t2i_backdoor_bench.report.worst import noticed
from t2i_backdoor_bench.running.suites import FOLDER
from t2i_backdoor_bench.stats.paired import paired_difference
from t2i_backdoor_bench.store.folder import Store

FILE = "search.json"
Known = Mapping[str, Mapping[str, Any]]
WORDS = {"removal": "restored", "detector": "found"}
# what ranks and Worst ask for, and what stealth is judged by
RANKS = (
    "asr,restoration_accuracy,fidelity_before,restored_relative,false_trigger_rate,fidelity_lost,"
    "prompt_fidelity,clip_score,kid,kid_added"
)
SUITES = {
    "removal": (
        "adaptive",
        "Attackers who know the defense: which removal is best under its strongest attack?",
        RANKS,
    ),
    "detector": (
        "adaptive_detectors",
        "Attackers who know the detector: what is still found, and by which?",
        "asr,false_trigger_rate,fidelity_lost,kid_added,detection_auroc,detection_tpr,detection_tpr_1",
    ),
}


def suite(of: str, known: Known) -> str:
    """A suite: the defenses of a kind, the plain attacks that were found for them, and the hardened
    ones. A defense that has not been searched has the first plain attack and the form's own values;
    one with nothing to lose has none."""
    _, question, metrics = SUITES[of]
    plain, hard, guessed = [], [], []
    for name in DEFENSES[of]:
        told = known.get(name, {})
        if told and not told["attack"]:
            continue
        if not told.get("hardened"):
            guessed.append(name)
        attack = told.get("attack") or CANDIDATES[of][0]
        plain.append(attack)
        hard.append(told.get("hardened") or hardened(attack, name, {}))
    lines = [f"# {question}", "# Written by `python benchmarks/adaptive.py report`."]
    lines += [f"# Not searched yet: {', '.join(guessed)}."] if guessed else []
    lines += ["attacks:", *(f"  - {attack}" for attack in dict.fromkeys([*plain, *hard]))]
    lines += [f"defenses: none,{','.join(DEFENSES[of])}", "scale: study"]
    lines += [f"n: {EVALUATION.n}", f"seeds: {','.join(map(str, EVALUATION.seeds))}"]
    return "\n".join([*lines, f"metrics: {metrics}"]) + "\n"


def write_suites(known: Known, folder: Path = FOLDER) -> None:
    for of, (name, *_) in SUITES.items():
        (folder / f"{name}.yaml").write_text(suite(of, known), "utf-8")


def line(name: str, told: Mapping[str, Any], store: Store) -> str:
    """A defense's row of the page. What is not there to be compared is said in words."""
    if not told["attack"]:
        return row(name, "", attackers.nothing(told["plain"]))
    tried, chosen = told["tried"], told.get("hardened", "")
    if not chosen:
        return row(name, told["attack"], "not searched")
    found = [store.read_result(key) for key in told.get("cells", ())]
    records = [r for r in found if r is not None]
    if not records or len(records) < len(found):
        return row(name, told["attack"], f"{settings_text(told)}: not evaluated")
    if failed := [r for r in records if r.status != "done"]:
        which = "; ".join(
            f"`{r.cell.attack}` x `{r.cell.defense}`, seed {r.cell.seed}" for r in failed
        )
        return row(name, told["attack"], f"{settings_text(told)}: failed: {which}")
    what = MEASURE[kind(name)]
    plain, hard = (by_seed(records, attack, name, what) for attack in (told["attack"], chosen))
    share = [100 * np.mean(list(map(np.mean, values.values()))) for values in (plain, hard)]
    lost = paired_difference({"attack": hard}, {"attack": plain}, attacks_fixed=True)
    bare = [r for r in records if r.cell.defense == "none"]
    asr = pool([r.scores["asr"] for r in bare if r.cell.attack == chosen]).value
    seen = noticed(bare)
    stealth = ["kept" if a not in seen else ", ".join(seen[a]) for a in (told["attack"], chosen)]
    whole = asr >= TOOK_HOLD and not seen and -lost.value >= LEAST - 1e-9
    return row(
        name,
        told["attack"],
        settings_text(told),
        f"{100 * asr:.1f}",
        f"{stealth[0]} / {stealth[1]}",
        *(f"{value:.1f}" for value in share),
        difference_text(lost),
        "yes" if whole else f"no, best of {len(tried)}",
    )


def row(*cells: str) -> str:
    """Nine columns; those behind the cells are empty."""
    first = [f"`{cell}`" if cell else "" for cell in cells[:2]]
    return f"| {' | '.join([*first, *cells[2:], *[''] * (9 - len(cells))])} |"


def settings_text(told: Mapping[str, Any]) -> str:
    return setting_text(told["chosen"])


def setting_text(setting: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {tuning.text(v)}" for k, v in setting.items()) or "its own"


def by_seed(
    records: Sequence[Record], attack: str, defense: str, metric: str
) -> dict[int, np.ndarray]:
    """A metric's values by seed: of the pictures, or else of the cell."""
    found = {}
    for r in records:
        if (r.cell.attack, r.cell.defense) == (attack, defense):
            values = pictures(r.scores[metric])
            found[r.cell.seed] = np.array([r.scores[metric].value]) if values is None else values
    return found


def tried_lines(name: str, told: Mapping[str, Any]) -> Iterator[str]:
    """A row of each attack that was tried against a defense, on the development split."""
    plain = [(attack, "plain", found) for attack, found in told["plain"].items()]
    hard = [(told["attack"], setting_text(t["setting"]), t) for t in told["tried"]]
    for attack, setting, found in [*plain, *hard]:
        if "error" in found:
            yield f"| `{name}` | `{attack}` | {setting} | failed | | | |"
            continue
        seen = "kept" if kept(found) else ", ".join(found["noticed"]) or "not taken hold"
        yield (
            f"| `{name}` | `{attack}` | {setting} | {100 * found['attack']['asr']:.1f} | {seen} |"
            f" {100 * found['left']:.1f} | {attackers.spent([found]):.1f} |"
        )


def report(known: Known, folder: Path) -> int:
    """Write the page."""
    store = Store(folder, read_only=True)
    lines = [
        "# Attackers who know the defense",
        "",
        "Written by `python benchmarks/adaptive.py report` from the records beside it, which"
        " `python benchmarks/adaptive.py search` and `run` made. How it is done: the first lines of"
        " [adaptive.py](../../benchmarks/adaptive.py). At most"
        f" {len(attackers.SETTINGS['removal'])} settings of `+adaptive` were tried against each"
        f" removal, and {len(attackers.SETTINGS['detector'])} against each detector, each of which"
        " tries further ones of the attack by itself."
        f" {len(EVALUATION.seeds)} seeds, {EVALUATION.n} prompts a condition; the interval is over"
        " seeds. *Stealth*: of the plain and of the hardened attack, without a defense. *Found* is"
        " the share of triggered prompts that a detector finds at 5 % of clean ones refused. *20"
        " points*: whether that much is lost, the hardened attack takes hold, and both keep their"
        " stealth.",
    ]
    for of, names in DEFENSES.items():
        what = WORDS[of]
        lines += [
            "",
            f"| {of} | plain attack | chosen | ASR % | stealth | {what}, plain % |"
            f" {what}, hardened % | difference, points | 20 points |",
            "|---|---|---|---:|---|---:|---:|---:|---|",
            *(line(name, known[name], store) for name in names if name in known),
        ]
    lines += [
        "",
        "## What was tried",
        "",
        f"On the development split, {attackers.SEARCH.n} prompts, one seed, with a trigger and a"
        " target of the search. *Left*: restored, or found. The hardened attacks took"
        f" {sum(attackers.spent(told['tried']) for told in known.values()):.0f} core-minutes.",
        "",
        "| defense | attack | setting | ASR % | stealth | left % | core-minutes |",
        "|---|---|---|---:|---|---:|---:|",
        *(text for name, told in known.items() for text in tried_lines(name, told)),
    ]
    (folder / "README.md").write_text("\n".join(lines) + "\n", "utf-8")
    return 0
