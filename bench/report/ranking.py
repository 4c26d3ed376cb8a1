"""The defenses of a run over all its attacks, ranked among those that are given the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.averages import fid_change, over_attacks
from t2i_backdoor_bench.report.metrics import LEAD, Reading, reading, shown_in
from t2i_backdoor_bench.report.paired import TIE, paired_in
from t2i_backdoor_bench.report.rows import rows
from t2i_backdoor_bench.stats.estimates import Estimate
from t2i_backdoor_bench.store import provenance

QUALITY = ("fid", "clip_score", "prompt_fidelity")  # what a defense must not make worse


@dataclass(frozen=True)
class Summary:
    """One defense over all attacks of the run. `lost` says where it loses quality
    (`quality_losses`). `rank` is its place among the whole rows with the same needs that lose none:
    None for the undefended row and where a cell is missing (its mean would be of other attacks).
    `tied` is True where McNemar's test does not tell it from the first."""

    defense: str
    needs: str
    done: int
    attacks: int
    means: dict[str, Estimate] = field(default_factory=dict)
    worst: tuple[str, float] | None = None  # attack, value of the leading metric
    lost: list[str] | None = None
    rank: int | None = None
    tied: bool = False


def summaries(records: Sequence[Record]) -> list[Summary]:
    """Every defense: by needs (least first), then by rank; the undefended model is the first of
    all. Its means are those of the leaderboard's metrics, and `fid_change`."""
    table, ways = rows(records), shown_in("leaderboard", records, lead=True)
    names = dict.fromkeys(row["defense"] for row in table)
    elsewhere = other_models(records)
    found = [_summary(records, table, name, ways, elsewhere) for name in names]

    def place(s: Summary) -> tuple[Any, ...]:
        return (s.defense != "none", len(s.needs.split()), s.needs, s.rank or len(found) + 1)

    return sorted(_ranked(found, records), key=place)


def _summary(
    records: Sequence[Record],
    table: Sequence[Mapping[str, Any]],
    defense: str,
    ways: Sequence[Reading],
    elsewhere: set[tuple[str, str]],
) -> Summary:
    own_rows = [row for row in table if row["defense"] == defense]
    own = [r for r in records if r.cell.defense == defense]
    means = {way.name: over_attacks(own, way.name) for way in ways}
    means["fid_change"] = fid_change(records, defense)
    lead = [(r["attack"], r[LEAD]) for r in own_rows if r.get(LEAD) is not None]
    paired = [r for r in table if (r["attack"], defense) not in elsewhere]
    return Summary(
        defense,
        own_rows[0]["needs"],
        sum(r["status"] == "done" for r in own_rows),
        len(own_rows),
        {m: e for m, e in means.items() if e is not None},
        min(lead, key=lambda pair: pair[1]) if lead else None,
        quality_losses(paired, defense, [reading(records, m) for m in QUALITY]),
    )


def other_models(records: Sequence[Record]) -> set[tuple[str, str]]:
    """The attacks and defenses that have a cell of other attacked weights than the undefended one
    of the same seed."""
    weights = {
        (r.cell.attack, r.cell.seed): r.origin("attack_weights")
        for r in records
        if r.cell.defense == "none"
    }
    return {
        (r.cell.attack, r.cell.defense)
        for r in records
        if provenance.other_weights(
            r.origin("attack_weights"), weights.get((r.cell.attack, r.cell.seed), "")
        )
    }


def quality_losses(
    table: Sequence[Mapping[str, Any]], defense: str, ways: Sequence[Reading]
) -> list[str] | None:
    """Where a defense draws clean prompts worse than the undefended model's own interval allows:
    "FID of poison_style". None where there is nothing to compare: no undefended row, or none of
    these metrics with an interval."""
    undefended = {row["attack"]: row for row in table if row["defense"] == "none"}
    found, compared = [], False
    for row in table:
        base = undefended.get(row["attack"])
        if row["defense"] != defense or base is None:
            continue
        for way in ways:
            lower = way.better == "lower"
            end, value = base.get(f"{way.name}_{'hi' if lower else 'lo'}"), row.get(way.name)
            if value is None or end is None:
                continue
            compared = True
            if value > end if lower else value < end:
                found.append(f"{way.short} of {row['attack']}")
    return found if compared else None


def _ranked(found: Sequence[Summary], records: Sequence[Record]) -> list[Summary]:
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


def _competes(s: Summary) -> bool:
    return s.defense != "none" and LEAD in s.means and s.done == s.attacks and not s.lost
