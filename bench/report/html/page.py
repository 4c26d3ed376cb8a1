"""`report.html`: a run as one file that needs nothing else, a pure function of what the run folder
stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.contract.names import parts_of
from t2i_backdoor_bench.report import leaderboard
from t2i_backdoor_bench.report import ranking as standings
from t2i_backdoor_bench.report import rows as tables
from t2i_backdoor_bench.report.html import cells as report_cells
from t2i_backdoor_bench.report.html import pictures
from t2i_backdoor_bench.report.html import svg as charts
from t2i_backdoor_bench.report.html.parts import (
    NAMES,
    breakable,
    ends_of,
    heading,
    names_of,
    plural,
    scroll,
    to_script,
)
from t2i_backdoor_bench.report.ranking import LEAD, Standing
from t2i_backdoor_bench.report.rows import DASH
from t2i_backdoor_bench.store.atomic import write_text
from t2i_backdoor_bench.store.folder import Store

WEB = Path(__file__).parent
HEAT = (
    "restoration_accuracy",
    "removal_accuracy",
    "asr",
    "false_trigger_rate",
    "fid",
    "clip_score",
    "drift",
    "trigger_effect",
)
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


# ----------------------------------------------------------------------------------------- the page
def write(store: Store, records: Sequence[Record]) -> Path:
    """Write report.html."""
    path = store.root / "report.html"
    write_text(path, render(store, records))
    return path


def render(store: Store, records: Sequence[Record]) -> str:
    """The whole page. Every text that comes from a record is escaped."""
    manifest = store.read_record("run") or {}
    sections = [
        ("leaderboard", "Leaderboard", leaders(records)),
        ("matrix", "Matrix", matrix(records)),
        ("trade-off", "Trade-off", tradeoff(records)),
        ("pictures", "Pictures", "".join(pictures.grids(store, records))),
        ("attention", "Attention", "".join(pictures.attention(store, records))),
        ("training", "Training", training(records)),
        ("rows", "Table", report_cells.all_rows(records)),
        ("cells", "Cells", report_cells.cells(records)),
        ("failures", "Failures", report_cells.failures(records)),
        ("protocol", "Protocol", report_cells.protocol(store, records, manifest)),
        ("cite", "Cite", report_cells.cite(records, manifest)),
    ]
    sections = [(name, title, body) for name, title, body in sections if body]
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in sections)
    body = "".join(
        f'<section id="{name}" aria-label="{title}"><h2>{title}</h2>{text}</section>'
        for name, title, text in sections
    )
    style, script = (
        (WEB / name).read_text(encoding="utf-8") for name in ("report.css", "report.js")
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title_of(records))}</title><style>{style}</style></head><body>"
        '<a class="skip" href="#main">Skip to the results</a>'
        f'{header(records)}<nav aria-label="Sections"><div>{links}<button type="button"'
        ' id="theme">Light / dark</button></div></nav>'
        f'<main id="main">{body}</main><footer><p>Made by t2i-backdoor-bench from the records of'
        " this folder; "
        "<code>python run_bench.py --tables-only --out FOLDER</code> makes it again. Everything is"
        " in this one file.</p></footer>"
        '<script type="application/json"'
        f' id="data">{to_script(report_cells.payload(store, records))}</script>'
        f"<script>{script}</script></body></html>\n"
    )


def title_of(records: Sequence[Record]) -> str:
    bases = ", ".join(names_of(records, "base"))
    if "trigger_effect" in tables.metric_names(records) and names_of(records, "attack") == [
        "suspect"
    ]:
        return f"What does the trigger do to the model {bases}, and what do defenses do about it?"
    return (
        f"Which defenses remove a backdoor from the model {bases} and still draw what was asked"
        " for?"
    )


def header(records: Sequence[Record]) -> str:
    """The question, what was learned, and how much was measured."""
    protocol = records[0].protocol
    wrong = standings.troubles(records)
    attacks, seeds = names_of(records, "attack"), names_of(records, "seed")
    defenses = [d for d in names_of(records, "defense") if d != "none"]
    facts = [
        plural(len(attacks), "attack"),
        plural(len(defenses), "defense"),
        plural(len(seeds), "seed"),
    ]
    facts += [
        f"{protocol.get('evaluation', {}).get('n', '?')} prompts a condition",
        f"scale {protocol.get('scale', '?')}",
    ]
    facts.append(plural(len(records) - len(wrong), "cell") + " done")
    items = "".join(f"<li>{escape(f)}</li>" for f in facts)
    if wrong:
        items += (
            f'<li class="alarm"><a href="#failures">{plural(len(wrong), "cell")} without a'
            " result</a></li>"
        )
    said = "".join(f"<li>{escape(text)}</li>" for text in standings.learned(records))
    small = protocol.get("scale") == "smoke" or protocol.get("training", 1) < 1
    note = (
        '<p class="note">This is a smoke run: it shows that everything works; its numbers say'
        " nothing of the methods.</p>"
        if small
        else ""
    )
    return (
        f'<header><p class="eyebrow">t2i-backdoor-bench</p><h1>{escape(title_of(records))}</h1>'
        f'<ul class="learned">{said}</ul>{note}<ul class="facts">{items}</ul></header>'
    )


# -------------------------------------------------------------------------------------- leaderboard
def estimate(records: Sequence[Record], standing: Standing, metric: str) -> str:
    """A table cell with a mean and its interval."""
    found = standing.means.get(metric)
    if found is None:
        return f'<td data-value="">{DASH}</td>'
    share = tables.direction(records, metric)["percent"]
    show = (lambda v: f"{v:.1f}") if metric == "seconds" else (lambda v: tables.shown(v, share))
    ends = (
        f"<small>{show(found.low)} – {show(found.high)}</small>"
        if found.low is not None and found.high is not None
        else ""
    )
    return f'<td data-value="{found.value!r}">{show(found.value)}{ends}</td>'


def leaders(records: Sequence[Record]) -> str:
    """Defenses over all attacks, as `leaderboard.md` ranks them; of a suspect, whose restoration
    nobody can judge, without ranks."""
    table, groups = standings.standings(records), leaderboard.ranked(records)
    metrics = [m for m in standings.METRICS if any(m in s.means for s in table)]
    heads = [
        "Defense",
        "Rank",
        *(["Quality", "p"] if groups else []),
        *(heading(records, m) for m in metrics),
        "Worst",
        "Attacks",
    ]
    blocks = {
        "Undefended": [leaderboard.Place(s, DASH, None) for s in table if s.defense == "none"]
    }
    blocks |= {f"{name}: {leaderboard.GROUPS[name]}": group for name, group in groups.items()}
    placed = {p.standing.defense for group in blocks.values() for p in group}
    for s in table:
        if s.defense not in placed:
            blocks.setdefault(standings.given(s.needs).capitalize(), []).append(
                leaderboard.Place(s, DASH, None)
            )
    lines = []
    for name, group in blocks.items():
        if group:
            lines.append(
                f'<tr class="group"><th colspan="{len(heads)}"'
                f' scope="rowgroup"><span>{escape(name)}</span></th></tr>'
            )
        for found in group:
            s = found.standing
            cells = [f"<td>{found.place}</td>"]
            if groups:
                cells.append(
                    f"<td>{DASH if s.defense == 'none' else quality(found)}</td><td>{leaderboard.p_text(found.p)}</td>"
                )
            cells += [estimate(records, s, m) for m in metrics]
            cells.append(
                f"<td>{100 * s.worst[1]:.1f} %<small>{breakable(s.worst[0])}</small></td>"
                if s.worst
                else f"<td>{DASH}</td>"
            )
            cells.append(f"<td>{s.done} of {s.attacks}</td>")
            needs = f"<small>{escape(tables.needs_text(s.needs))}</small>" if s.needs else ""
            lines.append(
                f'<tr><th scope="row">{breakable(s.defense)}{needs}</th>{"".join(cells)}</tr>'
            )
    head = "".join(
        f'<th scope="col"{" class=text" if i == 0 else ""}>{escape(h)}</th>'
        for i, h in enumerate(heads)
    )
    return (
        "<p>Means over the attacks. Restored decides the rank, among those that are given the same"
        " and draw clean prompts as well as the undefended model, within its interval. p: McNemar's"
        " test of Restored against the first of the group; what it does not tell apart is a tie."
        " Worst: the attack of which it restores least.</p>"
        + scroll(
            "leaderboard",
            "<table"
            f' class="wide"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>',
        )
    )


def quality(place: leaderboard.Place) -> str:
    """ "kept", or how often it is lost, with where in the title."""
    lost = place.standing.lost
    return (
        f'<span title="{escape(place.quality)}">lost in {len(lost)}</span>'
        if lost
        else escape(place.quality)
    )


# ------------------------------------------------------------------------------------------- matrix
def shade(place: float) -> str:
    """Colours of a value between bad (0, orange) and good (1, teal), and black or white for the
    text on it."""
    stops = ((201, 104, 38), (246, 239, 226), (22, 122, 116))
    low, part = (stops[:2], place * 2) if place < 0.5 else (stops[1:], place * 2 - 1)
    color = [round(a + (b - a) * part) for a, b in zip(*low, strict=True)]
    linear = [
        c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color
    ]
    light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    ink = (
        "#000" if (light + 0.05) ** 2 > 1.05 * 0.05 else "#fff"
    )  # the one of more contrast (WCAG 2)
    return f"background:rgb({color[0]} {color[1]} {color[2]});color:{ink}"


def matrix(records: Sequence[Record]) -> str:
    """One heat map a metric: defenses down, attacks across; a cell leads to its details."""
    table = {(r["attack"], r["defense"]): r for r in tables.rows(records)}
    first = {}
    for i, result in enumerate(records):
        first.setdefault((result.cell.attack, result.cell.defense), i)
    attacks = names_of(records, "attack")
    defenses = sorted(names_of(records, "defense"), key=lambda d: d != "none")
    maps, options = [], []
    for metric in HEAT:
        values = [r[metric] for r in table.values() if r.get(metric) is not None]
        if not values:
            continue
        options.append(f'<option value="{metric}">{escape(heading(records, metric))}</option>')
        maps.append(
            "<div"
            f' data-heat="{metric}">{_heat(records, metric, attacks, defenses, table, first, values)}</div>'
        )
    if not maps:
        return ""
    return (
        "<p>Teal is good and orange is bad; the numbers say the same. A cell leads to its"
        " details.</p>"
        '<div class="controls needs-js"><label for="heat">Metric<select'
        f' id="heat">{"".join(options)}</select></label></div>{"".join(maps)}'
    )


def _heat(
    records: Sequence[Record],
    metric: str,
    attacks: Sequence[str],
    defenses: Sequence[str],
    table: Mapping[tuple[str, str], Mapping[str, Any]],
    first: Mapping[tuple[str, str], int],
    values: Sequence[float],
) -> str:
    way = tables.direction(records, metric)
    low, high = (0.0, 1.0) if way["percent"] else (min(values), max(values))
    lines = []
    for defense in defenses:
        tds = []
        for attack in attacks:
            row = table.get((attack, defense))
            value = row.get(metric) if row else None
            place = 0.5 if value is None or high <= low else (value - low) / (high - low)
            place = 1 - place if way["better"] == "lower" else place
            style = (
                f' style="{shade(place if way["better"] != "none" else 0.5)}"'
                if value is not None
                else ""
            )
            text = tables.shown(value, way["percent"])
            small = ends_of(row, metric, way["percent"]) if row else ""
            label = escape(f"{attack} x {defense}: {text}")
            link = (
                f'<a href="#cell-{first[attack, defense]}" aria-label="{label}">{text}{small}</a>'
                if row
                else DASH
            )
            tds.append(f"<td{style}>{link}</td>")
        lines.append(f'<tr><th scope="row">{breakable(defense)}</th>{"".join(tds)}</tr>')
    head = "".join(f'<th scope="col">{breakable(a)}</th>' for a in attacks)
    name = heading(records, metric)
    head = f'<thead><tr><th scope="col" class="text">{escape(name)}</th>{head}</tr></thead>'
    body = f"<tbody>{''.join(lines)}</tbody>"
    return scroll(
        name, f'<h3 class="without-js">{escape(name)}</h3><table class="heat">{head}{body}</table>'
    )


# -------------------------------------------------------------------------------------------------------
# trade-off, training
def tradeoff(records: Sequence[Record]) -> str:
    """Restoration against what FID does and against cost, means over attacks."""
    every = [s for s in standings.standings(records) if LEAD in s.means and s.done == s.attacks]
    table = [s for s in every if s.defense != "none"]
    undefended = next((s for s in every if s.defense == "none"), None)
    changed = any("fid_change" in s.means for s in table)
    groups = list(dict.fromkeys(s.needs for s in table))
    panels = []
    for metric, label, log in (
        (
            ("fid_change", "Change of FID of clean prompts, %", False)
            if changed
            else ("fid", "FID of clean prompts (lower is better)", False)
        ),
        ("seconds", "Seconds of the defense (log scale)", True),
    ):
        points = []
        for s in table:
            x, y = s.means.get(metric), s.means[LEAD]
            if x is None or (log and x.value <= 0):
                continue
            tip = (
                f"{s.defense}: {standings.percent(y)} restored, {NAMES[metric]}"
                f" {tables.shown(x.value, metric == 'fid_change')}"
            )
            factor = 100 if metric == "fid_change" else 1
            xs, ys = (
                tuple(None if v is None else f * v for v in e[1:])
                for f, e in ((factor, x), (100, y))
            )
            points.append(
                charts.Point(
                    s.defense, factor * x.value, 100 * y.value, xs, ys, groups.index(s.needs), tip
                )
            )
        line = undefended.means.get(metric) if undefended and metric == "fid" else None
        drawn = charts.scatter(
            f"Restored against {NAMES[metric]}",
            points,
            label,
            "Restored, %",
            log,
            101,
            line and ("undefended", line.value),
        )
        if drawn:
            panels.append(
                '<figure class="panel"><figcaption>Restored against'
                f" {NAMES[metric]}</figcaption>{drawn}</figure>"
            )
    if not panels:
        return ""
    legend = "".join(
        f'<li class="c{i % 6}"><span></span>{escape(standings.given(g))}</li>'
        for i, g in enumerate(groups)
    )
    return (
        "<p>Means over attacks with 95 % intervals (those of FID and seconds need several seeds);"
        " top left is best. The change of FID is "
        "against the undefended model, seed by seed.</p>"
        f'<ul class="legend">{legend}</ul><div class="charts">{"".join(panels)}</div>'
    )


def training(records: Sequence[Record]) -> str:
    """The losses of attacks and defenses: one panel a method, one line an attack (or a seed)."""
    panels: dict[str, dict[str, tuple[float, list[float]]]] = {}
    for result in records:
        cell, cost = result.cell, result.cost
        if cost.get("losses_attack"):
            steps = _steps(result, "attack", cell.attack)
            panels.setdefault(cell.attack, {}).setdefault(
                f"seed {cell.seed}", (steps, cost["losses_attack"])
            )
        for part, losses in (cost.get("losses") or {}).items():
            name = next((p for p in parts_of(cell.defense) if p.split("[")[0] == part), part)
            steps = _steps(result, "defense", part)
            panels.setdefault(name, {}).setdefault(
                f"{cell.attack}, seed {cell.seed}", (steps, losses)
            )
    out = []
    for name, lines in panels.items():
        drawn = charts.curves(
            f"Loss of {name}", [(k, steps, v) for k, (steps, v) in lines.items()], "Step", "Loss"
        )
        legend = "".join(
            f'<li class="c{i % 6}"><span></span>{escape(k)}</li>' for i, k in enumerate(lines)
        )
        out.append(
            f'<figure class="panel"><figcaption>{escape(name)}</figcaption>{drawn}<ul'
            f' class="legend">{legend}</ul></figure>'
        )
    return (
        f'<p>Means over stretches of the training.</p><div class="charts">{"".join(out)}</div>'
        if out
        else ""
    )


def _steps(result: Record, kind: str, name: str) -> float:
    """The steps of a method, from the configuration that the record holds."""
    found = result.cell.config.get(kind, {})
    parts = found if isinstance(found, list) else [found]
    return float(
        next(
            (p["options"].get("steps", 100) for p in parts if p.get("name") == name.split("[")[0]),
            100,
        )
    )
