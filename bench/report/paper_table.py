"""`--style paper`: the table of the SKD-CAG paper (arXiv 2508.18235), removal accuracy of each
method by the kind of target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report import ranking as standings
from t2i_backdoor_bench.report import rows as tables
from t2i_backdoor_bench.report.formats.escape import latex as escape
from t2i_backdoor_bench.report.rows import DASH
from t2i_backdoor_bench.stats.estimates import Estimate
from t2i_backdoor_bench.store.atomic import write_text

TITLES = {"patch": "Pixel", "style": "Style", "object": "Object", "image": "Image"}


def kinds(records: Sequence[Record]) -> dict[str, list[str]]:
    """The attacks of the run by the kind of their target: patch, style and object first, then
    others."""
    found: dict[str, list[str]] = {}
    for result in records:
        kind = (result.backdoor.get("target") or {}).get("kind")
        if kind and result.cell.attack not in found.setdefault(kind, []):
            found[kind].append(result.cell.attack)
    return {
        k: found[k]
        for k in [*(k for k in TITLES if k in found), *(k for k in found if k not in TITLES)]
    }


def removal(records: Sequence[Record]) -> list[tuple[str, dict[str, Estimate | None]]]:
    """For each defense its removal accuracy by kind of target, the mean over the attacks of that
    kind; None where an attack is missing."""
    by_kind, table = kinds(records), tables.rows(records)
    out = []
    for defense in dict.fromkeys(r["defense"] for r in table):
        cells: dict[str, Estimate | None] = {}
        for kind, attacks in by_kind.items():
            rows = [
                r
                for r in table
                if r["defense"] == defense
                and r["attack"] in attacks
                and r.get("removal_accuracy") is not None
            ]
            cells[kind] = (
                standings.average(rows, "removal_accuracy") if len(rows) == len(attacks) else None
            )
        out.append((defense, cells))
    return out


def text_of(found: Estimate | None) -> str:
    return DASH if found is None else f"{100 * found.value:.1f}"


def bold(table: Sequence[tuple[str, dict[str, Estimate | None]]], kind: str) -> set[str]:
    """The defenses with the largest removal accuracy, as printed; the undefended row does not
    compete."""
    rivals = {
        d: cells[kind].value for d, cells in table if d != "none" and cells.get(kind) is not None
    }
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
    )


def to_latex(records: Sequence[Record]) -> str:
    """A one-column table for the packages booktabs and graphicx."""
    table, by_kind = removal(records), kinds(records)
    best = {k: bold(table, k) for k in by_kind}
    lines = [
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{escape(caption(records))}}}",
        r"\label{tab:removal}",
        r"\footnotesize",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * len(by_kind)}}}",
        r"\toprule",
        " & ".join(["Method", *(escape(TITLES.get(k, k)) for k in by_kind)]) + r" \\",
        r"\midrule",
    ]
    for defense, cells in table:
        row = [escape(defense)]
        for kind in by_kind:
            found = cells[kind]
            text = text_of(found).replace(DASH, "--")
            text = rf"\textbf{{{text}}}" if defense in best[kind] else text
            if found is not None and found.low is not None:
                text += rf" {{\scriptsize[{100 * found.low:.1f}, {100 * found.high:.1f}]}}"
            row.append(text)
        lines.append(" & ".join(row) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}", r"\end{table}", ""])


def to_markdown(records: Sequence[Record]) -> str:
    table, by_kind = removal(records), kinds(records)
    best = {k: bold(table, k) for k in by_kind}
    lines = [
        f"| Method | {' | '.join(f'{TITLES.get(k, k)} % ↑' for k in by_kind)} |",
        f"|---|{'---:|' * len(by_kind)}",
    ]
    for defense, cells in table:
        row = [defense.replace("|", "\\|")]
        for kind in by_kind:
            found = cells[kind]
            text = f"**{text_of(found)}**" if defense in best[kind] else text_of(found)
            ends = found is not None and found.low is not None
            row.append(f"{text} [{100 * found.low:.1f}, {100 * found.high:.1f}]" if ends else text)
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join([*lines, "", caption(records), ""])


def write(records: Sequence[Record], folder: Path) -> list[Path]:
    """Write table_paper.tex and table_paper.md."""
    for name, text in (
        ("table_paper.tex", to_latex(records)),
        ("table_paper.md", to_markdown(records)),
    ):
        write_text(folder / name, text)
    return [folder / "table_paper.tex", folder / "table_paper.md"]
