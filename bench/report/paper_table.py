"""`--style paper`: the table of the SKD-CAG paper (arXiv 2508.18235), removal accuracy of each
method by the kind of target."""

from __future__ import annotations

from collections.abc import Sequence

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.averages import by_attack_and_seed, over_attacks
from t2i_backdoor_bench.report.formats import latex, markdown
from t2i_backdoor_bench.report.numbers import DASH
from t2i_backdoor_bench.report.rows import rows
from t2i_backdoor_bench.report.table import Cell, Column, Row, Table
from t2i_backdoor_bench.report.took_hold import counted, left_out_text, took_hold
from t2i_backdoor_bench.stats.estimates import Estimate

METRIC = "removal_accuracy"
TITLES = {"patch": "Pixel", "style": "Style", "object": "Object", "image": "Image"}
Means = list[tuple[str, dict[str, Estimate | None]]]


def kinds(records: Sequence[Record]) -> dict[str, list[str]]:
    """The attacks that took hold by the kind of their target: patch, style and object first, then
    others."""
    found: dict[str, list[str]] = {}
    attacks = counted(records)
    for record in records:
        kind = (record.backdoor.get("target") or {}).get("kind")
        if not kind or record.cell.attack not in attacks:
            continue
        if record.cell.attack not in found.setdefault(kind, []):
            found[kind].append(record.cell.attack)
    first = [k for k in TITLES if k in found]
    return {k: found[k] for k in [*first, *(k for k in found if k not in TITLES)]}


def removal(records: Sequence[Record]) -> Means:
    """For each defense its removal accuracy by kind of target, the mean over the attacks of that
    kind; None where an attack is missing."""
    out = []
    for defense in dict.fromkeys(r["defense"] for r in rows(records)):
        own = [r for r in records if r.cell.defense == defense]
        means: dict[str, Estimate | None] = {}
        for kind, attacks in kinds(records).items():
            cells = [r for r in own if r.cell.attack in attacks]
            whole = set(by_attack_and_seed(cells, METRIC)) == set(attacks)
            means[kind] = over_attacks(cells, METRIC) if whole else None
        out.append((defense, means))
    return out


def best(table: Means, kind: str) -> set[str]:
    """The defenses with the largest removal accuracy, as printed; the undefended row does not
    compete."""
    rivals = {d: m[kind].value for d, m in table if d != "none" and m.get(kind) is not None}
    top = max(rivals.values(), default=0)
    return {
        d for d, v in rivals.items() if len(rivals) > 1 and f"{100 * v:.1f}" == f"{100 * top:.1f}"
    }


def caption(records: Sequence[Record]) -> str:
    protocol = records[0].protocol
    seeds = len({r.cell.seed for r in records})
    n = protocol.get("evaluation", {}).get("n", "?")
    parts = "; ".join(f"{TITLES.get(k, k)}: {', '.join(a)}" for k, a in kinds(records).items())
    return (
        f"Removal accuracy (%) of each method by target, the mean over attacks ({parts}), with 95 %"
        f" intervals. Base {protocol.get('base', '?')}, {n} prompts, {seeds}"
        f" seed{'' if seeds == 1 else 's'}. A model that draws noise has 100."
        f" {left_out_text(took_hold(records))}".rstrip()
    )


def paper_table(records: Sequence[Record]) -> Table:
    means, found = removal(records), kinds(records)
    bold = {kind: best(means, kind) for kind in found}
    heads = [Column(TITLES.get(kind, kind), "%", "higher") for kind in found]
    lines = []
    for defense, by_kind in means:
        cells = [_cell(by_kind[kind], defense in bold[kind]) for kind in found]
        lines.append(Row((Cell(defense), *cells)))
    heads = (Column("Method", numeric=False), *heads)
    return Table(heads, tuple(lines), caption=caption(records))


def _cell(found: Estimate | None, bold: bool) -> Cell:
    if found is None:
        return Cell(DASH)
    value, low, high = found
    ends = None if low is None else (f"{100 * low:.1f}", f"{100 * high:.1f}")
    return Cell(f"{100 * value:.1f}", value, ends, bold)


def texts(records: Sequence[Record]) -> dict[str, str]:
    """The table by file name."""
    table = paper_table(records)
    return {
        "table_paper.tex": latex.write(table, "tab:removal", wide=False, intervals=True),
        "table_paper.md": markdown.write(table),
    }
