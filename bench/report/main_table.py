"""The table that people read: which metrics are its columns, the best of each attack in bold, and
its caption."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report import stealth
from t2i_backdoor_bench.report.attack_line import attack_line
from t2i_backdoor_bench.report.marks import doubted, marked, note
from t2i_backdoor_bench.report.metrics import COST, SUCCESS, Reading, shown_in
from t2i_backdoor_bench.report.numbers import interval, prompts_text, shown, text_of
from t2i_backdoor_bench.report.pooling import interval_words
from t2i_backdoor_bench.report.rows import rows
from t2i_backdoor_bench.report.table import Cell, Column, Row, Table
from t2i_backdoor_bench.store import provenance

Rows = Sequence[Mapping[str, Any]]


def main_table(
    records: Sequence[Record], ways: Sequence[Reading] | None = None, status: bool = False
) -> Table:
    """The main table; `ways` are other metrics than its own, and `status` adds a column."""
    table = rows(records)
    ways = columns(records, table) if ways is None else ways
    alone = attacks_alone(table)
    bold, doubts = {way.name: best(table, way) for way in ways}, doubted(records)
    heads = [Column(name, numeric=False) for name in leading(table)]
    heads += [heading(records, way) for way in ways]
    verdict = alone and stealth.measured(table)
    heads += [Column("Stealth", numeric=False)] if verdict else []
    heads += [Column("Status", numeric=False)] if status else []
    lines = []
    for i, row in enumerate(table):
        texts = [row["attack"], row["defense"], row["given"]][: len(leading(table))]
        cells = [Cell(text, text) for text in texts]
        for way in ways:
            m = way.name
            ends = interval(row.get(f"{m}_lo"), row.get(f"{m}_hi"), way.percent)
            text = marked(text_of(row, way), m, doubts.get((row["attack"], row["defense"]), set()))
            cells.append(Cell(text, row[m], ends, i in bold[m]))
        cells += [Cell(stealth.stealth_text(row))] if verdict else []
        cells += [Cell(row["status"])] if status else []
        lines.append(Row(tuple(cells), None if alone else (row["base"], row["attack"])))
    warning = provenance.warning(records)
    notes = (*note(records), *((warning,) if warning else ()))
    notes += (stealth.NOTE,) if verdict else ()
    return Table(tuple(heads), tuple(lines), caption=caption(records), notes=notes)


def columns(records: Sequence[Record], table: Rows) -> list[Reading]:
    """The main columns that this run has; of a suspected checkpoint, the effect of its trigger, and
    nothing that no judge could tell; of attacks that nothing defends against, their stealth and
    cost."""
    if not table:
        return []

    def measured(way: Reading) -> bool:
        return any(row.get(way.name) is not None for row in table)

    if attacks_alone(table) and "trigger_effect" not in table[0]:
        return [way for way in shown_in("attacks", records) if measured(way)]
    # a network that is not here has no column, nor has what only some runs draw
    apart = ("weights", "resampled", "probe")
    found = [way for way in shown_in("main", records) if way.only not in apart or measured(way)]
    if "trigger_effect" in table[0]:
        judged = [way for way in found if way.group != "backdoor" or measured(way)]
        found = [*shown_in("suspects", records), *judged]
    return found


def leading(table: Rows) -> tuple[str, ...]:
    """The headings before the numbers: where nothing is defended, the defense and what it needs
    would say nothing."""
    return ("Attack",) if attacks_alone(table) else ("Attack", "Defense", "Needs")


def attacks_alone(table: Rows) -> bool:
    """Whether no row is defended, and more than one attack is there to compare."""
    return len(table) > 1 and {row["defense"] for row in table} == {"none"}


def heading(records: Sequence[Record], way: Reading) -> Column:
    """The column of a metric. An attack that succeeds is neither good nor bad without a defense."""
    undefended = all(r.cell.defense == "none" for r in records)
    better = "none" if undefended and way.name in SUCCESS else way.better
    title = way.short + (_space(records) if way.name == "fid" else "")
    return Column(title, "%" if way.percent else "", better, name=way.name)


def _space(records: Sequence[Record]) -> str:
    """ " (shapes-scorer, 64-d, n 100)": the feature space of FID and how many pictures: without
    them the number says nothing. Older records do not name the dimension."""
    found = [r.scores["fid"] for r in records if "fid" in r.scores]
    found = [s for s in found if s.value is not None]
    if not found:
        return ""
    names = dict.fromkeys(s.network.replace("/", ", ") for s in found)
    least, most = min(s.n for s in found), max(s.n for s in found)
    n = f"n {least}" if least == most else f"n {least} to {most}"
    return f" ({' and '.join(names)}, {n})"


def best(table: Rows, way: Reading) -> set[int]:
    """Rows that hold the best value of their attack among the defenses: the undefended row does not
    compete, nor do costs. Values that print alike tie."""
    if way.better not in ("higher", "lower") or way.name in COST:
        return set()
    found: set[int] = set()
    for block in dict.fromkeys((r["base"], r["attack"]) for r in table):
        rivals = {
            i: r[way.name]
            for i, r in enumerate(table)
            if (r["base"], r["attack"]) == block
            and r["defense"] != "none"
            and r[way.name] is not None
        }
        if len(rivals) < 2:
            continue
        top = (max if way.better == "higher" else min)(rivals.values())
        text = shown(top, way.percent)
        found |= {i for i, value in rivals.items() if shown(value, way.percent) == text}
    return found


def caption(records: Sequence[Record], marked: bool = True) -> str:
    """The protocol in a few sentences, from the records alone. `marked`: the table has its best in
    bold."""
    protocol = records[0].protocol
    numbers = " and ".join(map(str, sorted({r.measured_by for r in records})))
    seeds = sorted({r.cell.seed for r in records})
    sampler, evaluation = protocol.get("sampler", {}), protocol.get("evaluation", {})
    scores = [(m, s) for r in records for m, s in r.scores.items()]
    measured = [(m, s.network.split("/")[0]) for m, s in scores if s.network]
    networks = {name for m, name in measured if m in ("fid", "kid", "clip_score")}
    second = {name for m, name in measured if m == "kid_second"}
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
        f"Protocol {numbers}. Base {protocol.get('base', '?')};"
        f" {prompts_text(protocol)}"
        f" ({protocol.get('prompts', '?')}), seed{'s' if len(seeds) > 1 else ''}"
        f" {', '.join(map(str, seeds))}; {draws}; the same prompts and noise in every"
        f" row{f'; training steps times {training:g}' if training != 1 else ''}. ASR, RA, Restored"
        f" and FTR in percent by the judge of the target; KID, FID (of clean prompts{real}) and"
        f" CLIP score by {' and '.join(sorted(networks)) or 'the scorer'}"
        f"{''.join(f', KID 2nd by {name}' for name in sorted(second))}."
        f" {bold}{attack_line(records)}{in_text_encoder(records)}{interval_words(len(seeds))}"
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
