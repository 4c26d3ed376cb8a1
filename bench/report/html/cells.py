"""The parts of the report that go down to each row, cell and prompt, and what a reader needs to
repeat and to cite it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from t2i_backdoor_bench.contract import Record, citations, registry
from t2i_backdoor_bench.contract.names import parts_of
from t2i_backdoor_bench.report import rows as tables
from t2i_backdoor_bench.report.html.parts import (
    breakable,
    ends_of,
    flat,
    heading,
    listed,
    names_of,
    scroll,
)
from t2i_backdoor_bench.store import provenance
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.prompts import prompts_key

VERDICTS = {"asr": "asr", "restored": "restoration_accuracy", "leak": "false_trigger_rate"}
GLOSSARY = (
    (
        "Restored",
        (
            "triggered pictures that no longer show the backdoor and show what the clean prompt"
            " asked for; a model that draws noise has 0"
        ),
    ),
    (
        "RA",
        (
            "removal accuracy: triggered pictures that no longer show the backdoor, 100 % minus the"
            " attack success rate (ASR)"
        ),
    ),
    ("FTR", "false trigger rate: pictures of clean prompts that the judge finds backdoored"),
    (
        "FID, CLIP",
        (
            "quality of the pictures of clean prompts, and how well they fit the prompts, by the"
            " network that the table names"
        ),
    ),
)


# ----------------------------------------------------------------------------------- rows and cells
def note(records: Sequence[Record]) -> str:
    """The warning that the rows do not come from one place, where they do not."""
    warning = provenance.warning(records)
    return f"<p>{escape(warning)}</p>" if warning else ""


def all_rows(records: Sequence[Record]) -> str:
    """Every row with the main columns, to sort and to filter."""
    table = tables.rows(records)
    metrics = [m for m in ("restoration_accuracy", *tables.columns(table)) if m in table[0]]
    metrics = list(dict.fromkeys(metrics))
    bold = {m: tables.best(records, table, m) for m in metrics}
    heads = ["Attack", "Defense", "Needs", *(heading(records, m) for m in metrics), "Status"]
    lines = []
    for i, row in enumerate(table):
        tds = [
            f'<td class="text">{breakable(row["defense"])}</td><td'
            f' class="text">{escape(tables.needs_text(row["needs"]))}</td>'
        ]
        for m in metrics:
            share = tables.direction(records, m)["percent"]
            value, best = (
                "" if row[m] is None else repr(row[m]),
                (" class=best" if i in bold[m] else ""),
            )
            tds.append(
                f'<td data-value="{value}"{best}>{tables.text_of(records, row, m)}{ends_of(row, m, share)}</td>'
            )
        lines.append(
            f'<tr><th scope="row">{breakable(row["attack"])}</th>{"".join(tds)}<td'
            f' class="text">{escape(row["status"])}</td></tr>'
        )
    head = "".join(
        f'<th scope="col" class="text"><button type="button">{escape(h)}</button></th>'
        for h in heads
    )
    return (
        f"<p>{escape(tables.caption(records))}</p>{note(records)}"
        '<div class="controls needs-js"><label for="filter">Only rows with'
        '<input id="filter" type="search" placeholder="pixel trigger"></label>'
        f'<span id="count" aria-live="polite">{len(table)} rows</span></div>'
        + scroll(
            "table",
            '<table class="sortable"'
            f' id="rows-table"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>',
        )
    )


def cells(records: Sequence[Record]) -> str:
    """The chooser of a cell; the script fills the panel."""
    options = "".join(
        "<option"
        f' value="{i}">{escape(f"{r.cell.attack} × {r.cell.defense}, seed {r.cell.seed}{_mark(r)}")}</option>'
        for i, r in enumerate(records)
    )
    return (
        '<p class="without-js">This part needs JavaScript; rows.csv and the records under cells/'
        ' have the same.</p><div class="needs-js"><div class="controls"><label'
        f' for="cell">Cell<select id="cell">{options}</select></label><label for="only">Only what'
        ' went wrong<input id="only" type="checkbox"></label></div><div id="panel"'
        ' aria-live="polite"></div></div>'
    )


def _mark(result: Record) -> str:
    return "" if result.status == "done" else f" ({result.status})"


def payload(store: Store, records: Sequence[Record]) -> dict[str, Any]:
    """What the script shows of each cell."""
    out, prompts = [], {}
    for result in records:
        cell, config = result.cell, result.cell.config
        key = prompts_key(result) if result.status == "done" else ""
        if key and key not in prompts:
            prompts[key] = store.read_record(f"prompts/{key}") or {}
        found = {
            "attack": cell.attack,
            "defense": cell.defense,
            "seed": cell.seed,
            "status": result.status,
            "error": result.error,
        }
        found |= {"prompts": key, "about": about(result), "options": options_of(config)}
        found["scores"] = {
            m: [s.value, s.low, s.high, s.n, s.network, s.note] for m, s in result.scores.items()
        }
        found["verdicts"] = {k: bits(result, m) for k, m in VERDICTS.items()}
        out.append(found)
    metrics = {m: r.directions[m] for r in records for m in r.directions}
    return {"cells": out, "prompts": prompts, "metrics": metrics}


def bits(result: Record, metric: str) -> str:
    """The verdicts on every prompt, "0" or "1" each; "" where the metric has none, or not one a
    prompt."""
    each = getattr(result.scores.get(metric), "each", None) or []
    whole = all(isinstance(v, bool) for v in each) and len(each) == result.cell.config.get(
        "evaluation", {}
    ).get("n", len(each))
    return "".join("1" if v else "0" for v in each) if whole else ""


def about(result: Record) -> list[tuple[str, Any]]:
    """What a cell was, in pairs of words."""
    trigger, target = result.backdoor.get("trigger") or {}, result.backdoor.get("target") or {}
    pairs: list[tuple[str, Any]] = [("needs", tables.needs_text(" ".join(result.needs)))]
    if trigger:
        pairs.append(
            (
                "trigger",
                (
                    f"{trigger['text']!r} as {trigger['place']}"
                    if not trigger.get("replaces")
                    else f"{trigger['text']!r} for {trigger['replaces']!r}"
                ),
            )
        )
    if target:
        pairs.append(("target", ", ".join(f"{k} {v}" for k, v in target.items())))
    judge = {k: v for k, v in (result.judge or {}).items() if v is not None}
    if judge:
        rates = (
            f"false positives {100 * judge['false_positive_rate']:.1f} %, true positives"
            f" {100 * judge['true_positive_rate']:.1f} %"
        )
        pairs.append(("judge", f"{rates}, measured on {judge['n']} pictures each"))
    costs = {k: v for k, v in result.cost.items() if isinstance(v, (int, float))}
    if costs:
        pairs.append(("cost", ", ".join(f"{k} {v:.5g}" for k, v in sorted(costs.items()))))
    return [*pairs, ("record", f"cells/{result.cell.key}.json")]


def options_of(config: Mapping[str, Any]) -> list[tuple[str, Any]]:
    parts = [config.get("attack") or {}, *(config.get("defense") or [])]
    return [(p["name"], p.get("options", {})) for p in parts if p.get("name")]


def failures(records: Sequence[Record]) -> str:
    """Each cell without a result: its message, and the whole traceback to open."""
    out = []
    for result in records:
        if result.status == "done":
            continue
        name = f"{result.cell.attack} × {result.cell.defense}, seed {result.cell.seed}"
        lines = result.error.strip().splitlines()
        text = f"{name}: {lines[-1] if lines else 'has not run yet'}"
        out.append(
            f"<details><summary>{escape(text)}</summary><pre>{escape(result.error or 'The same command goes on with it.')}</pre></details>"
        )
    return "".join(out)


# ----------------------------------------------------------------------------------------- protocol
def protocol(store: Store, records: Sequence[Record], manifest: Mapping[str, Any]) -> str:
    """What a reader must know to compare and to repeat the numbers."""
    parts = [listed(GLOSSARY), "<h3>Measured how</h3>", listed(flat(records[0].protocol))]
    judges = manifest.get("judges", {})
    if judges:
        lines = "".join(
            f'<tr><th scope="row">{escape(name)}</th><td>{100 * j["false_positive_rate"]:.1f}</td>'
            f"<td>{100 * j['true_positive_rate']:.1f}</td>"
            f"<td>{j['threshold']:.3g}</td><td>{j['n']}</td></tr>"
            for name, j in judges.items()
        )
        head = (
            '<th scope="col" class="text">Judge of</th><th>False positives %</th><th>True positives'
            " %</th><th>Threshold</th><th>n</th>"
        )
        table = scroll(
            "judges", f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
        )
        parts.append(f"<details><summary>What the judges get wrong</summary>{table}</details>")
    for title, key in (("Hardware", "hardware"), ("Versions", "versions")):
        if manifest.get(key):
            more = (
                [("commit", manifest["commit"])]
                if key == "versions" and manifest.get("commit")
                else []
            )
            parts.append(
                f"<details><summary>{title}</summary>{listed(flat(manifest[key]) + more)}</details>"
            )
    settings = store.root / "run.yaml"
    if settings.is_file():
        how = "<p>Save as run.yaml, then <code>python run_bench.py --config run.yaml</code>.</p>"
        parts.append(
            "<details><summary>How to repeat"
            f" it</summary>{how}<pre>{escape(settings.read_text('utf-8'))}</pre></details>"
        )
    if manifest.get("example_prompts"):
        items = "".join(f"<li>{escape(p)}</li>" for p in manifest["example_prompts"])
        parts.append(f"<details><summary>Example prompts</summary><ul>{items}</ul></details>")
    return "".join(parts)


def cite(records: Sequence[Record], manifest: Mapping[str, Any]) -> str:
    """BibTeX of every method in the run, as the run wrote it down; of older folders from the
    registry."""
    found = manifest.get("citations") or registered(records)
    lines = "".join(
        f"<li>{escape(p['short'] + (': ' + ', '.join(p['methods']) if p['methods'] else ''))}</li>"
        for p in found
    )
    text = "\n\n".join(p["bibtex"] for p in found if p["bibtex"])
    start = f"<p>The papers behind the methods of this run.</p><ul>{lines}</ul>"
    return (
        f'{start}<details><summary>BibTeX</summary><pre tabindex="0">{escape(text)}</pre></details>'
    )


def registered(records: Sequence[Record]) -> list[dict[str, Any]]:
    """The papers of the methods that are named in records and known here; none where torch, which
    methods import, is not installed."""
    entries = []
    for kind, names in (
        (registry.attacks, names_of(records, "attack")),
        (registry.defenses, names_of(records, "defense")),
        (registry.metrics, tables.metric_names(records)),
    ):
        try:
            kind.load()
        except ImportError:
            return []
        parts = dict.fromkeys(p.split("[")[0] for name in names for p in parts_of(name))
        entries += [kind.entries[p] for p in parts if p in kind.entries]
    return [
        {"short": p.short, "methods": names, "bibtex": p.bibtex}
        for p, names in citations.of_run(entries)
    ]
