"""What a run says in sum: the defenses ranked among those that are given the same, and a few
sentences. Pure functions of records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report import rows as tables
from t2i_backdoor_bench.report.paired import TIE, changes, paired_in
from t2i_backdoor_bench.stats.estimates import Estimate, pool_values
from t2i_backdoor_bench.store import provenance

SHARES = ("restoration_accuracy", "removal_accuracy", "false_trigger_rate")
METRICS = (*SHARES, "trigger_effect", "fid", "clip_score", "seconds")
WORKS = 0.5  # attack success of the undefended model, below which there is little to defend against
LEAD = "restoration_accuracy"
QUALITY = {"fid": "FID", "clip_score": "CLIP", "prompt_fidelity": "prompt fidelity"}


@dataclass(frozen=True)
class Standing:
    """One defense over all attacks of the run. `lost` says where it loses quality (`losses`).
    `rank` is its place among the whole rows with the same needs that lose none: None for the
    undefended row and where a cell is missing (its mean would be of other attacks). `tied` is True
    where McNemar's test does not tell it from the first."""

    defense: str
    needs: str
    done: int
    attacks: int
    means: dict[str, Estimate] = field(default_factory=dict)
    worst: tuple[str, float] | None = None  # attack, value of the leading metric
    lost: list[str] | None = None
    rank: int | None = None
    tied: bool = False


def average(rows: Sequence[Mapping[str, Any]], metric: str) -> Estimate | None:
    """Mean over attacks of a share. The attacks are a fixed list, not a sample of attacks, so the
    interval has the errors of the measurements alone: that of a sum of independent estimates by
    recovered variances (MOVER, Zou & Donner 2008), which keeps the asymmetry of the Wilson
    intervals. It takes the attacked models as independent of each other."""
    found = [
        (r[metric], r.get(f"{metric}_lo"), r.get(f"{metric}_hi"))
        for r in rows
        if r.get(metric) is not None
    ]
    if not found:
        return None
    k = len(found)
    value = sum(v for v, _, _ in found) / k
    if any(lo is None or hi is None for _, lo, hi in found):
        return Estimate(value, None, None)
    down = math.sqrt(sum((v - lo) ** 2 for v, lo, _ in found)) / k
    up = math.sqrt(sum((hi - v) ** 2 for v, _, hi in found)) / k
    return Estimate(value, value - down, value + up)


def average_by_seed(records: Sequence[Record], metric: str) -> Estimate | None:
    """Mean over attacks of a number such as FID, whose attacks share prompts, noise and real
    images: the attacks of each seed are averaged first, and the interval is Student's over seeds.
    Only seeds that every attack has."""
    by_seed: dict[int, dict[str, float]] = {}
    for result in records:
        if result.status == "done" and (value := tables.value_of(result, metric)) is not None:
            by_seed.setdefault(result.cell.seed, {})[result.cell.attack] = value
    return over_seeds(by_seed)


def over_seeds(by_seed: Mapping[int, Mapping[str, float]]) -> Estimate | None:
    """Mean and Student's interval over seeds of each seed's mean over attacks
    (`by_seed[seed][attack]`): of the seeds that have all of them, or None where none has."""
    attacks = {attack for found in by_seed.values() for attack in found}
    whole = [
        sum(found.values()) / len(attacks)
        for found in by_seed.values()
        if len(found) == len(attacks)
    ]
    return pool_values(whole) if whole else None


def fid_change(records: Sequence[Record], defense: str) -> Estimate | None:
    """By what share FID is above the undefended model's: of each seed the mean over the attacks,
    then Student's interval over seeds."""
    by_seed: dict[int, dict[str, float]] = {}
    blocks = tables.groups(records)
    for (base, attack, name), cells in blocks.items():
        if name == defense != "none":
            for seed, value in changes(
                cells, blocks.get((base, attack, "none"), []), "fid"
            ).items():
                by_seed.setdefault(seed, {})[attack] = value
    return over_seeds(by_seed)


def standings(records: Sequence[Record]) -> list[Standing]:
    """Every defense: by needs (least first), then by rank; the undefended model is the first of
    all. Its means are those of METRICS and `fid_change`."""
    by_defense: dict[str, list[Mapping[str, Any]]] = {}
    for row in tables.rows(records):
        by_defense.setdefault(row["defense"], []).append(row)
    found, table, others = (
        [],
        [row for rows in by_defense.values() for row in rows],
        unlike(records),
    )
    for defense, rows in by_defense.items():
        own = [r for r in records if r.cell.defense == defense]
        means = {
            m: average(rows, m) if m in (*SHARES, "trigger_effect") else average_by_seed(own, m)
            for m in METRICS
        }
        means["fid_change"] = fid_change(records, defense)
        means = {m: e for m, e in means.items() if e is not None}
        lead = [(r["attack"], r[LEAD]) for r in rows if r.get(LEAD) is not None]
        worst = min(lead, key=lambda pair: pair[1]) if lead else None
        done = sum(r["status"] == "done" for r in rows)
        lost = losses([r for r in table if (r["attack"], defense) not in others], defense)
        found.append(Standing(defense, rows[0]["needs"], done, len(rows), means, worst, lost))
    return sorted(
        _ranked(found, records),
        key=lambda s: (
            s.defense != "none",
            len(s.needs.split()),
            s.needs,
            s.rank or len(found) + 1,
        ),
    )


def unlike(records: Sequence[Record]) -> set[tuple[str, str]]:
    """The attacks and defenses that have a cell of other attacked weights than the undefended one
    of the same seed."""
    weights = {
        (r.cell.attack, r.cell.seed): r.said("attack_weights")
        for r in records
        if r.cell.defense == "none"
    }
    found = set()
    for result in records:
        own, base = (
            result.said("attack_weights"),
            weights.get((result.cell.attack, result.cell.seed), ""),
        )
        if provenance.other_weights(own, base):
            found.add((result.cell.attack, result.cell.defense))
    return found


def losses(table: Sequence[Mapping[str, Any]], defense: str) -> list[str] | None:
    """Where a defense draws clean prompts worse than the undefended model's own interval allows:
    "FID of poison_style". None where there is nothing to compare: no undefended row, or none of
    these metrics with an interval."""
    undefended = {row["attack"]: row for row in table if row["defense"] == "none"}
    found, compared = [], False
    for row in table:
        base = undefended.get(row["attack"])
        if row["defense"] != defense or base is None:
            continue
        for metric, name in QUALITY.items():
            end = base.get(f"{metric}_{'hi' if metric == 'fid' else 'lo'}")
            value = row.get(metric)
            if value is None or end is None:
                continue
            compared = True
            if value > end if metric == "fid" else value < end:
                found.append(f"{name} of {row['attack']}")
    return found if compared else None


def _ranked(found: Sequence[Standing], records: Sequence[Record]) -> list[Standing]:
    out = []
    for s in found:
        rivals = [r for r in found if r.needs == s.needs and _competes(r)]
        if not _competes(s):
            out.append(s)
            continue
        first = max(rivals, key=lambda r: r.means[LEAD].value)
        rank = 1 + sum(r.means[LEAD].value > s.means[LEAD].value for r in rivals)
        p = paired_in(records, s.defense, first.defense, LEAD) if rank > 1 else None
        out.append(replace(s, rank=rank, tied=p is not None and p >= TIE))
    return out


def _competes(s: Standing) -> bool:
    return s.defense != "none" and LEAD in s.means and s.done == s.attacks and not s.lost


# ---------------------------------------------------------------------------------------- sentences
def percent(estimate: Estimate) -> str:
    """ "98.4 % [97.1, 99.1]"."""
    ends = (
        f" [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"
        if estimate.low is not None and estimate.high is not None
        else ""
    )
    return f"{100 * estimate.value:.1f} %{ends}"


def given(needs: str) -> str:
    """ "given the trigger and clean pairs"."""
    words = {"trigger": "the trigger", "clean_model": "the clean model"}
    return (
        "given"
        f" {' and '.join(words.get(n, n.replace('_', ' ')) for n in needs.split()) or 'nothing'}"
    )


def learned(records: Sequence[Record]) -> list[str]:
    """What the run shows, in a sentence each: do the backdoors work, who repairs best among those
    that are given the same, and whose removal is no repair."""
    table, out = standings(records), []
    undefended = next((s for s in table if s.defense == "none"), None)
    if undefended is not None and "removal_accuracy" in undefended.means:
        asr = [
            (r["attack"], r["asr"])
            for r in tables.rows(records)
            if r["defense"] == "none" and r.get("asr") is not None
        ]
        if asr:
            weakest = min(asr, key=lambda pair: pair[1])
            share = sum(v for _, v in asr) / len(asr)
            alike = weakest[1] == max(v for _, v in asr)
            least = (
                ", with every attack"
                if alike
                else f", least with {weakest[0]} ({100 * weakest[1]:.1f} %)"
            )
            tail = least if len(asr) > 1 else f" ({weakest[0]})"
            out.append(
                f"Without a defense {100 * share:.1f} % of the triggered pictures show the"
                f" backdoor{tail}."
            )
            loose = [a for a, v in asr if v < WORKS]
            if loose:
                out.append(
                    f"Not taken hold: {', '.join(loose)} (below {100 * WORKS:.0f} %); rows of such"
                    " an attack say nothing of a defense."
                )
    for needs in dict.fromkeys(s.needs for s in table if s.rank):
        rivals = [s for s in table if s.needs == needs and s.rank]
        first = rivals[0]
        over = (
            f" on average over {first.attacks} attacks (worst {100 * first.worst[1]:.1f} %,"
            f" {first.worst[0]})"
            if first.attacks > 1
            else ""
        )
        kept = " without loss of quality" if first.lost == [] else ""
        text = (
            f"{given(needs).capitalize()}, {first.defense} restores {percent(first.means[LEAD])} of"
            f" the triggered pictures{kept}{over}"
        )
        tied = [s.defense for s in rivals[1:] if s.tied]
        if tied:
            text += f"; not separated from it: {', '.join(tied)}"
        out.append(text + ".")
    out += (
        [_effect(table)] if undefended is not None and "trigger_effect" in undefended.means else []
    )
    for s in table:
        removal, lead = s.means.get("removal_accuracy"), s.means.get(LEAD)
        if s.defense != "none" and removal and lead and removal.value - lead.value > 0.2:
            out.append(
                f"{s.defense} removes the backdoor from {100 * removal.value:.1f} % of the"
                f" triggered pictures, but only {100 * lead.value:.1f} % show what was asked for."
            )
    return out


def _effect(table: Sequence[Standing]) -> str:
    """What the trigger of a suspected checkpoint does, without and with each defense."""
    found = [(s.defense, s.means["trigger_effect"]) for s in table if "trigger_effect" in s.means]
    texts = [
        f"{tables.shown(e.value, False)} {'undefended' if d == 'none' else f'after {d}'}"
        for d, e in found
    ]
    return (
        f"Effect of the trigger (1 - cosine to the picture without it): {', '.join(texts)}. Compare"
        " with harmless words in its place."
    )


def troubles(records: Sequence[Record]) -> list[tuple[str, str]]:
    """The cells that failed or have not run, with the last line of the message."""
    out = []
    for result in records:
        if result.status != "done":
            text = (result.error.strip().splitlines() or ["has not run yet"])[-1]
            out.append(
                (f"{result.cell.attack} x {result.cell.defense}, seed {result.cell.seed}", text)
            )
    return out
