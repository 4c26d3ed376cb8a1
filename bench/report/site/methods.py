"""The pages of methods: what each is, and what it did in every run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from t2i_backdoor_bench.contract.listing import Listed, listed
from t2i_backdoor_bench.report.html.cells import options_of
from t2i_backdoor_bench.report.html.charts import training
from t2i_backdoor_bench.report.html.names import heading
from t2i_backdoor_bench.report.metrics import LEAD, Reading, shown_in
from t2i_backdoor_bench.report.numbers import interval, known_by, needs_text, text_of
from t2i_backdoor_bench.report.site.names import method_address, paper_view
from t2i_backdoor_bench.report.site.runs import Run
from t2i_backdoor_bench.report.took_hold import took_hold

KINDS = ("attack", "defense")
Key = tuple[str, str]  # kind, name


def methods_of(runs: Sequence[Run]) -> dict[Key, list[Run]]:
    """The methods of all runs, each with the runs that have it."""
    found: dict[Key, list[Run]] = {}
    for kind in KINDS:
        for run in runs:
            names = dict.fromkeys(pair[KINDS.index(kind)] for pair in run.pairs)
            for name in names:
                found.setdefault((kind, name), []).append(run)
    return found


def known_methods() -> dict[Key, Listed]:
    """What this installation knows of attacks and defenses: a stranger's plugin may be absent."""
    return {(kind, method.name): method for kind in KINDS for method in listed(kind)}


def entry(key: Key, runs: Sequence[Run], known: Mapping[Key, Listed]) -> dict[str, Any]:
    """A line of the list of methods."""
    kind, name = key
    papers = papers_for(name, runs)
    return {
        "name": name,
        "address": method_address(kind, name),
        "summary": summary_of(key, known),
        "papers": [paper_view(paper) for paper in papers],
        "runs": len(runs),
    }


def summary_of(key: Key, known: Mapping[Key, Listed]) -> str:
    kind, name = key
    if name == "none":
        return "No defense: the model as it is after the attack."
    method = known.get((kind, name)) or known.get((kind, name.split("[")[0]))
    if method:
        return method.summary
    return "A composition." if "+" in name else "A method that is not installed here."


def papers_for(name: str, runs: Sequence[Run]) -> list[dict[str, Any]]:
    found = {paper["bibtex"]: paper for run in runs for paper in run.papers_for(name)}
    return list(found.values())


def page_view(key: Key, runs: Sequence[Run], known: Mapping[Key, Listed]) -> dict[str, Any]:
    """The page of a method."""
    kind, name = key
    method, papers = known.get(key), papers_for(name, runs)
    return {
        "summary": summary_of(key, known),
        "papers": [paper_view(paper) for paper in papers],
        "runs": [_in_run(kind, name, run) for run in runs],
        "doc": method.doc if method else "",
        "bibtex": "\n\n".join(paper["bibtex"] for paper in papers if paper["bibtex"]),
    }


def _in_run(kind: str, name: str, run: Run) -> dict[str, Any]:
    """What a method did in a run: of a defense one row an attack, of an attack one row a
    defense."""
    records = run.of(**{kind: name})
    found = {r["defense" if kind == "attack" else "attack"]: r for r in _rows(kind, name, run)}
    ways = [
        way
        for way in shown_in("heat", records, lead=True)
        if any(row.get(way.name) is not None for row in found.values())
    ]
    reasons = took_hold(run.records)
    lines = [
        {
            "name": other,
            "address": run.cells[row["attack"], row["defense"]],
            "note": "did not take hold" if kind == "defense" and reasons.get(other) else "",
            "cells": [_cell(row, way) for way in ways],
        }
        for other, row in found.items()
    ]
    # an attack's losses are in each of its cells: one of them is enough
    trained = training(records if kind == "defense" else run.of(name, "none")) or {"panels": []}
    return run.view() | {
        "heads": ["Defense" if kind == "attack" else "Attack", *(heading(way) for way in ways)],
        "rows": lines,
        "facts": _facts(kind, name, run),
        "charts": [p for p in trained["panels"] if p["of"].startswith(kind)],
    }


def _rows(kind: str, name: str, run: Run) -> list[dict[str, Any]]:
    found = [row for row in run.rows.values() if row[kind] == name]
    if kind == "defense":
        return found
    return sorted(found, key=lambda row: (row["defense"] != "none", -(row.get(LEAD) or 0.0)))


def _cell(row: Mapping[str, Any], way: Reading) -> dict[str, Any]:
    value = row.get(way.name)
    ends = interval(row.get(f"{way.name}_lo"), row.get(f"{way.name}_hi"), way.percent)
    text = text_of({way.name: value}, way)
    return {"text": text, "value": "" if value is None else repr(value), "interval": ends}


def _facts(kind: str, name: str, run: Run) -> list[tuple[str, str]]:
    """What it was given, and with which options it ran."""
    records = run.of(**{kind: name})
    first = records[0]
    found = []
    if kind == "defense" and name != "none":
        needs = needs_text(" ".join(first.needs), known_by(records))
        found.append(("given", needs))
    for part, options in options_of(first.cell.config):
        ours = part.split("[")[0] in name and (kind == "attack") == (
            part == first.cell.config.get("attack", {}).get("name")
        )
        if ours and options:
            text = ", ".join(f"{k} {v}" for k, v in options.items())
            found.append((f"options of {part}", text))
    return found
