"""Tables as pure functions of stored cell records: pooled over seeds, with intervals and paired
tests, as CSV, LaTeX, Markdown and text."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from t2i_backdoor_bench.contract import Record, Score
from t2i_backdoor_bench.report.formats import escape
from t2i_backdoor_bench.report.paired import changes, paired_p, reference, rival
from t2i_backdoor_bench.stats import estimates as stats
from t2i_backdoor_bench.store import provenance
from t2i_backdoor_bench.store.atomic import write_text

DASH = "–"
PAIRED = {"removal": "removal_accuracy", "restoration": "restoration_accuracy"}
COST = (
    "seconds",
    "seconds_attack",
    "seconds_per_step",
    "peak_memory_mb",
    "detection_ms",
)  # depend on the machine and its load
COUNTS = ("parameters", "steps", "images", "parameters_attack", "steps_attack", "images_attack")
WITHOUT = {"done": "not measured", "failed": "the cell failed", "missing": "the cell has not run"}
ONLY = {
    "screens": "not available: this defense has no detector",
    "locates": "not available: this defense locates no trigger",
    "probe": "not measured: run with --probe",
    "undefended": "not measured: it says what an attack does, and is of undefended rows",
    "own": "not measured apart: the attack's paper evaluates on captions, as `asr` does",
}
FIRST = (
    "asr",
    "removal_accuracy",
    "restoration_accuracy",
    "false_trigger_rate",
    "fid",
    "kid",
    "clip_score",
    "clip_score_triggered",
    "diversity",
    "drift",
    "robustness",
)
SHORT = {
    "asr": "ASR",
    "removal_accuracy": "RA",
    "restoration_accuracy": "Restored",
    "false_trigger_rate": "FTR",
    "fid": "FID",
    "clip_score": "CLIP",
    "diversity": "Diversity",
    "seconds": "Seconds",
}
MAIN = tuple(SHORT)  # the columns of the tables that people read; table.csv has all
SUSPECT = {
    "trigger_effect": "Effect",
    "drift": "Drift",
}  # before those, where a checkpoint is only suspected
ATTACKS = {  # where nothing is defended, the attacks are what is compared
    "asr": "ASR",
    "asr_own": "Own ASR",
    "false_trigger_rate": "FTR",
    "fid": "FID",
    "fid_added": "FID added",
    "clip_score": "CLIP",
    "drift": "Drift",
    "parameters_attack": "Parameters",
    "images_attack": "Images",
    "seconds_attack": "Seconds",
}
JUDGED = ("asr", "removal_accuracy", "restoration_accuracy", "false_trigger_rate")
NEEDS_SHORT = {
    "trigger": "trigger",
    "clean_model": "clean model",
    "clean_pairs": "clean pairs",
    "stream": "prompt stream",
}


# ------------------------------------------------------------------------------------------ pooling
def pool(scores: Sequence[Score]) -> Score:
    """One score of the scores of several seeds. Seeds without a value are left out, and the note
    says so."""
    kept = [s for s in scores if s.value is not None]
    if not kept:
        return scores[0] if scores else Score(None, note="not measured")
    n, network = sum(s.n for s in kept), kept[0].network
    notes = list(dict.fromkeys(s.note for s in scores if s.note))
    if len(kept) < len(scores):
        notes.append(f"{len(kept)} of {len(scores)} seeds")
    if len(scores) == 1:
        return Score(
            kept[0].value, kept[0].low, kept[0].high, n, network, "; ".join(notes), kept[0].each
        )
    lists = [s.each if s.each and None not in s.each else None for s in kept]
    if all(lists) and all(isinstance(v, bool) for each in lists for v in each):
        found = stats.pool_proportion(lists)
    elif all(lists):
        found = stats.pool_mean(lists)
    else:
        found = stats.pool_values([s.value for s in kept])
    return Score(found.value, found.low, found.high, n, network, "; ".join(notes))


def metric_names(records: Sequence[Record]) -> list[str]:
    """Metrics of any record that are not costs: the well-known first, in their order, then the
    others by name."""
    found = {name for r in records for name in r.directions}
    found -= {*COST, *COUNTS}
    return [m for m in FIRST if m in found] + sorted(found - set(FIRST))


def direction(records: Sequence[Record], metric: str) -> dict[str, Any]:
    if metric in COST:
        return {"better": "lower", "percent": False}
    return next(
        (r.directions[metric] for r in records if metric in r.directions),
        {"better": "none", "percent": False},
    )


def groups(records: Sequence[Record]) -> dict[tuple[str, str, str], list[Record]]:
    """Records of one row of the table (base, attack, defense) by seed: the undefended row first in
    its block, otherwise in the order in which the names first appear."""
    bases, attacks, defenses = (
        list(dict.fromkeys(getattr(r.cell, f) for r in records))
        for f in ("base", "attack", "defense")
    )
    defenses.sort(key=lambda name: name != "none")
    found: dict[tuple[str, str, str], list[Record]] = {}
    for base in bases:
        for attack in attacks:
            for defense in defenses:
                rows = [
                    r
                    for r in records
                    if (r.cell.base, r.cell.attack, r.cell.defense) == (base, attack, defense)
                ]
                if rows:
                    found[base, attack, defense] = sorted(rows, key=lambda r: r.cell.seed)
    return found


def rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One row an attack x defense: the columns of table.csv, numbers as numbers, None where there
    is none.

    `status` is "done", "failed", "missing" (not run yet), or "partial" where only some seeds are
    done: the numbers are then of those.
    """
    table, names, versus = [], metric_names(records), reference(records)
    split = groups(records)
    defenses = {defense for _, _, defense in split}
    for (base, attack, defense), cells in split.items():
        done = [r for r in cells if r.status == "done"]
        protocol = cells[0].protocol
        row: dict[str, Any] = {
            "base": base,
            "attack": attack,
            "defense": defense,
            "needs": " ".join(cells[0].needs),
        }
        row |= {"seeds": len(done), "n": protocol.get("evaluation", {}).get("n")}
        for name in names:
            found = pool([r.scores[name] for r in done if name in r.scores])
            row |= {name: found.value, f"{name}_lo": found.low, f"{name}_hi": found.high}
        if versus and "fid" in names:
            moved = (
                list(changes(cells, split.get((base, attack, "none"), []), "fid").values())
                if defense != "none"
                else []
            )
            found = stats.pool_values(moved) if moved else stats.Estimate(None, None, None)
            row |= {
                "fid_change": found.value,
                "fid_change_lo": found.low,
                "fid_change_hi": found.high,
            }
        for short, metric in PAIRED.items() if versus else ():
            against = rival(defense, versus, defenses)
            other = split.get((base, attack, against), [])
            row[f"p_{short}_vs_{versus.split('[')[0]}"] = (
                None if defense == against else paired_p(cells, other, metric)
            )
        for name in (*COST, *COUNTS):
            values = [v for v in (_cost(r, name) for r in done) if v is not None]
            row[name] = float(np.mean(values)) if values else None
        row["scorer"] = protocol.get("scorer", "")
        states = {r.status for r in cells}
        row["status"] = states.pop() if len(states) == 1 else "partial" if done else "failed"
        table.append(row)
    return table


def _cost(result: Record, name: str) -> float | None:
    if name == "seconds_per_step":
        steps = result.cost.get("steps")
        return result.cost["seconds"] / steps if steps and "seconds" in result.cost else None
    return result.cost.get(name)


def value_of(result: Record, metric: str) -> float | None:
    """One number of a cell: a score, or a cost."""
    if metric in (*COST, *COUNTS):
        return _cost(result, metric)
    return result.scores[metric].value if metric in result.scores else None


def long_rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One row a cell and metric: the columns of rows.csv."""
    table = []
    for cells in groups(records).values():
        for result in cells:
            cell = result.cell
            start = {
                "base": cell.base,
                "attack": cell.attack,
                "defense": cell.defense,
                "seed": cell.seed,
            }
            origin = provenance.columns(result)
            for metric in [
                *metric_names(records),
                *(m for m in (*COST, *COUNTS) if m in result.directions),
            ]:
                score = result.scores.get(metric) or Score(
                    None, note=_without(result, direction(records, metric))
                )
                table.append(
                    start
                    | {
                        "metric": metric,
                        "value": score.value,
                        "low": score.low,
                        "high": score.high,
                        "n": score.n,
                    }
                    | {
                        "network": score.network,
                        "status": result.status,
                        "note": score.note,
                        "key": cell.key[:16],
                    }
                    | origin
                )
    return table


def _without(result: Record, way: Mapping[str, Any]) -> str:
    """Why a cell has no score of a metric that reads this way."""
    return (
        ONLY.get(way.get("only", ""), WITHOUT["done"])
        if result.status == "done"
        else WITHOUT[result.status]
    )


# ------------------------------------------------------------------------------------------ writing
def number(value: Any) -> str:
    """Six significant digits, whole numbers in full, nothing for None; texts as `escape.csv` has
    them."""
    if value is None:
        return ""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.6g}"
    return escape.csv(value) if isinstance(value, str) else str(value)


def to_csv(table: Sequence[Mapping[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if table:
        writer.writerow(map(escape.csv, table[0]))
        writer.writerows([number(v) for v in row.values()] for row in table)
    return out.getvalue()


def shown(value: float | None, percent: bool) -> str:
    """A number as readers want it: percent with one decimal, otherwise three significant digits."""
    if value is None:
        return DASH
    if percent:
        return f"{100 * value:.1f}"
    if abs(value) >= 99.95:
        return f"{value:.0f}"
    text = f"{value:#.3g}"  # keeps trailing zeros: a column of 0.900 and 0.897 lines up
    return f"{value:.4f}" if "e" in text else text


def text_of(records: Sequence[Record], row: Mapping[str, Any], metric: str) -> str:
    """One number of the tables that people read. Seconds get one decimal: more would be noise."""
    if metric in ("seconds", "seconds_attack") and row[metric] is not None:
        return f"{row[metric]:.1f}"
    if metric in COUNTS and row[metric] is not None:
        return f"{row[metric]:,.0f}"
    return shown(row[metric], direction(records, metric)["percent"])


def columns(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """The main columns that this run has; of a suspected checkpoint, the effect of its trigger, and
    nothing that no judge could tell; of attacks that nothing defends against, their stealth and
    cost."""
    if attacks_alone(table) and "trigger_effect" not in table[0]:
        return [m for m in ATTACKS if any(row.get(m) is not None for row in table)]
    found = [m for m in MAIN if table and m in table[0]]
    if table and "trigger_effect" in table[0]:
        judged = [m for m in found if m not in JUDGED or any(row[m] is not None for row in table)]
        found = [*(m for m in SUSPECT if m in table[0]), *judged]
    return found


def lead(table: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The headings before the numbers: where nothing is defended, the defense and what it needs
    would say nothing."""
    return ("Attack",) if attacks_alone(table) else ("Attack", "Defense", "Needs")


def attacks_alone(table: Sequence[Mapping[str, Any]]) -> bool:
    """Whether no row is defended, and more than one attack is there to compare."""
    return len(table) > 1 and {row["defense"] for row in table} == {"none"}


def heading(records: Sequence[Record], metric: str, up: str, down: str, percent: str) -> str:
    way = direction(records, metric)
    alone = all(
        r.cell.defense == "none" for r in records
    )  # what is bad for a defender is good for an attack
    arrow = (
        ""
        if alone and metric in ("asr", "asr_own")
        else {"higher": up, "lower": down}.get(way["better"], "")
    )
    return f"{(SHORT | SUSPECT | ATTACKS)[metric]}{percent if way['percent'] else ''}{arrow}"


def best(records: Sequence[Record], table: Sequence[Mapping[str, Any]], metric: str) -> set[int]:
    """Rows that hold the best value of their attack among the defenses: the undefended row does not
    compete, nor do costs. Values that print alike tie."""
    way = direction(records, metric)
    if way["better"] not in ("higher", "lower") or metric in COST:
        return set()
    found: set[int] = set()
    blocks = dict.fromkeys((r["base"], r["attack"]) for r in table)
    for block in blocks:
        rivals = [
            i
            for i, r in enumerate(table)
            if (r["base"], r["attack"]) == block
            and r["defense"] != "none"
            and r[metric] is not None
        ]
        if len(rivals) < 2:
            continue
        top = (max if way["better"] == "higher" else min)(table[i][metric] for i in rivals)
        found |= {
            i
            for i in rivals
            if shown(table[i][metric], way["percent"]) == shown(top, way["percent"])
        }
    return found


def caption(records: Sequence[Record], marked: bool = True) -> str:
    """The protocol in two sentences, from the records alone. `marked`: the table has its best in
    bold."""
    protocol = records[0].protocol
    seeds = sorted({r.cell.seed for r in records})
    sampler, evaluation = protocol.get("sampler", {}), protocol.get("evaluation", {})
    networks = sorted(
        {
            s.network
            for r in records
            for m, s in r.scores.items()
            if s.network and m in ("fid", "clip_score")
        }
    )
    real = f" to {evaluation['real']} real images" if evaluation.get("real") else ""
    draws = (
        f"{sampler.get('name', 'the sampler')}, {sampler.get('steps', '?')} steps, guidance"
        f" {sampler.get('guidance', '?')}"
    )
    training = protocol.get("training", 1)
    marked = marked and any(r.cell.defense != "none" for r in records)
    bold = (
        "Best defense of each attack in bold; the undefended row does not compete. "
        if marked
        else ""
    )
    return (
        f"Base {protocol.get('base', '?')}; {evaluation.get('n', '?')} prompts a condition"
        f" ({protocol.get('prompts', '?')}), seed{'s' if len(seeds) > 1 else ''}"
        f" {', '.join(map(str, seeds))}; {draws}; the same prompts and noise in every"
        f" row{f'; training steps times {training:g}' if training != 1 else ''}. ASR, RA, Restored"
        f" and FTR in percent by the judge of the target; FID (of clean prompts{real}) and CLIP"
        f" score by {' and '.join(networks) or 'the scorer'}. {bold}{in_text_encoder(records)}95 %"
        " intervals: table.csv."
    )


def in_text_encoder(records: Sequence[Record]) -> str:
    """A sentence that names the attacks on the text encoder, where there are defenses; "" where
    there is nothing to say."""
    found = dict.fromkeys(
        r.cell.attack for r in records if re.search("text encoder|token embedding", r.edits)
    )
    if not found or all(r.cell.defense == "none" for r in records):
        return ""
    return (
        f"In the text encoder: {', '.join(found)}; what repairs the U-Net changes none of these"
        " weights. "
    )


def needs_text(needs: str) -> str:
    return ", ".join(NEEDS_SHORT.get(n, n) for n in needs.split()) or DASH


def to_latex(records: Sequence[Record]) -> str:
    """A table over both columns of a paper, for the packages booktabs and graphicx; a table wider
    than the text is scaled down to it."""
    table = rows(records)
    names = columns(table)
    bold = {m: best(records, table, m) for m in names}
    heads = [heading(records, m, r"\,$\uparrow$", r"\,$\downarrow$", r"\,\%") for m in names]
    lines = [
        r"\begin{table*}[t]",
        r"\centering",
        rf"\caption{{{escape.latex(caption(records))}}}",
        r"\label{tab:t2i-backdoor-bench}",
        r"\footnotesize",
        r"\setlength{\tabcolsep}{3.5pt}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{'l' * len(lead(table))}{'r' * len(names)}}}",
        r"\toprule",
        " & ".join([*lead(table), *heads]) + r" \\",
        *([r"\midrule"] if attacks_alone(table) else []),
    ]
    last = None
    for i, row in enumerate(table):
        block = (row["base"], row["attack"])
        if block != last and not attacks_alone(table):
            lines.append(r"\midrule")
        cells = [
            escape.latex(row["attack"]) if block != last else "",
            escape.latex(row["defense"]),
            escape.latex(needs_text(row["needs"])).replace(DASH, "--"),
        ][: len(lead(table))]
        for m in names:
            text = text_of(records, row, m)
            text = "--" if text == DASH else f"${text}$" if text.startswith("-") else text
            cells.append(rf"\textbf{{{text}}}" if i in bold[m] else text)
        lines.append(" & ".join(cells) + r" \\")
        last = block
    warning = provenance.warning(records)
    end = [
        r"\bottomrule",
        r"\end{tabular}}",
        *([rf"\par {escape.latex(warning)}"] if warning else []),
        r"\end{table*}",
        "",
    ]
    return "\n".join([*lines, *end])


def to_markdown(records: Sequence[Record]) -> str:
    """The main columns as a Markdown table; shares with their 95 % interval."""
    table = rows(records)
    names = columns(table)
    bold = {m: best(records, table, m) for m in names}
    heads = [*lead(table), *(heading(records, m, " ↑", " ↓", " %") for m in names)]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(lead(table))}{'---:|' * len(names)}"]
    for i, row in enumerate(table):
        cells = [
            escape.markdown(row["attack"]),
            escape.markdown(row["defense"]),
            escape.markdown(needs_text(row["needs"])),
        ]
        cells = cells[: len(lead(table))]
        for m in names:
            percent = direction(records, m)["percent"]
            text = text_of(records, row, m)
            text = f"**{text}**" if i in bold[m] else text
            if percent and row.get(f"{m}_lo") is not None:
                text += f" [{shown(row[f'{m}_lo'], True)}, {shown(row[f'{m}_hi'], True)}]"
            cells.append(text)
        lines.append(f"| {' | '.join(cells)} |")
    warning = provenance.warning(records)
    return "\n".join(
        [
            *lines,
            "",
            escape.markdown(caption(records)),
            *(["", escape.markdown(warning)] if warning else []),
            "",
        ]
    )


def texts(records: Sequence[Record]) -> dict[str, str]:
    """The tables by file name."""
    return {
        "table.csv": to_csv(rows(records)),
        "rows.csv": to_csv(long_rows(records)),
        "table.tex": to_latex(records),
        "table.md": to_markdown(records),
    }


def write(records: Sequence[Record], folder: Path) -> list[Path]:
    """Write table.csv, rows.csv, table.tex and table.md."""
    found = texts(records)
    for name, text in found.items():
        write_text(folder / name, text)
    return [folder / name for name in found]
