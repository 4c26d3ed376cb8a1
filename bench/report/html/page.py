"""`report.html`: a run as one file that needs nothing else, a pure function of what the run folder
stores."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.report.findings import cells_without_result, findings, smoke_note
from t2i_backdoor_bench.report.html import cells, charts, heat_maps, kept, leaderboard, protocol
from t2i_backdoor_bench.report.html.kept import Kept
from t2i_backdoor_bench.report.html.names import attacks_of, counted, defenses_of
from t2i_backdoor_bench.report.html.pictures import map_groups, picture_groups, picture_view
from t2i_backdoor_bench.report.html.templates import FOLDER, printable, render
from t2i_backdoor_bench.report.metrics import metric_names
from t2i_backdoor_bench.report.numbers import prompts_text
from t2i_backdoor_bench.store.atomic import write_text
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import read_plan

FINDINGS = 4  # that stand open above a report; the others are opened


def write(store: Store, records: Sequence[Record]) -> Path:
    """Write report.html. Pictures that cannot be drawn, as their samples are not in the folder, are
    kept from the earlier report. Where that one has pictures that cannot be read, it stays."""
    path = store.path("report.html")
    earlier = kept.read(path)
    pictures = picture_groups(store, records, {}), map_groups(store, records, {})
    both = (
        picture_groups(store, records, earlier.pictures),
        map_groups(store, records, earlier.maps),
    )
    drawn, shown = kept.count(*pictures), kept.count(*both)
    if earlier.unread > 0 and not drawn:
        store.say(
            f"{path} stays as it is: the folder has no samples to draw its pictures from, and"
            f" {earlier.unread} of them cannot be read; delete it for a report without them"
        )
        return path
    write_text(path, render_page(store, records, *both))
    if shown > drawn:
        store.say(
            f"{path}: {counted(shown - drawn, 'picture')} kept from the earlier report, as the"
            " folder has no samples to draw them from"
        )
    return path


def render_report(store: Store, records: Sequence[Record], earlier: Kept | None = None) -> str:
    """The whole page."""
    earlier = earlier or Kept()
    pictures = picture_groups(store, records, earlier.pictures)
    return render_page(store, records, pictures, map_groups(store, records, earlier.maps))


def render_page(
    store: Store,
    records: Sequence[Record],
    pictures: Sequence[Any],
    maps: Sequence[Any],
    site: Mapping[str, Any] | None = None,
    links: Mapping[tuple[str, str], str] | None = None,
) -> str:
    """The page from its records and pictures. In a `site` it has the site's links above it, and
    the cells of the matrix lead to the pages in `links`, by attack and defense."""
    manifest = read_plan(store)
    sections = [
        ("leaderboard", "Leaderboard", leaderboard.view(records)),
        ("matrix", "Matrix", heat_maps.view(records, links)),
        ("trade-off", "Trade-off", charts.tradeoff(records)),
        ("curves", "Curves", charts.swept(records)),
        ("pictures", "Pictures", picture_view(pictures)),
        ("attention", "Attention", {"groups": maps} if maps else None),
        ("training", "Training", charts.training(records)),
        ("rows", "Table", cells.table_view(records)),
        ("cells", "Cells", cells.chooser(records)),
        ("failures", "Failures", cells.failures(records)),
        ("protocol", "Protocol", protocol.protocol(store, records, manifest)),
        ("cite", "Cite", protocol.cite(records, manifest)),
    ]
    return render(
        "page.html",
        **shell(title_of(records), ("report.js",), heat_maps.stylesheet(), site),
        findings=findings(records),
        shown=FINDINGS,
        smoke=smoke_note(records),
        first_of=records[0].protocol.get("evaluation", {}).get("first_of"),
        facts=facts(records),
        failed=failed(records),
        sections=[{"id": k, "title": t, "view": view} for k, t, view in sections if view],
        data=printable(cells.payload(store, records)),
    )


def shell(
    title: str,
    scripts: Sequence[str] = (),
    more_style: str = "",
    site: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What every page has around its parts: title, style, scripts, and the policy that names
    them."""
    style = (FOLDER / "report.css").read_text(encoding="utf-8") + more_style
    texts = [(FOLDER / name).read_text(encoding="utf-8") for name in ("common.js", *scripts)]
    script = "\n".join(texts)
    return {
        "policy": policy(style, script, bool(site)),
        "style": Markup(style),  # both are this package's own
        "script": Markup(script),
        "title": title,
        "site": site,
    }


def policy(style: str, script: str, files: bool = False) -> str:
    """What the page may load and run: pictures within it (and, with `files`, beside it), and its
    own style and script."""

    def hashed(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    pictures = "data: 'self'" if files else "data:"
    return (
        f"default-src 'none'; img-src {pictures}; style-src"
        f" 'sha256-{hashed(style)}'; script-src 'sha256-{hashed(script)}'"
    )


def title_of(records: Sequence[Record]) -> str:
    bases = ", ".join(dict.fromkeys(r.cell.base for r in records))
    if "trigger_effect" in metric_names(records) and attacks_of(records) == ["suspect"]:
        return f"What does the trigger do to the model {bases}, and what do defenses do about it?"
    return (
        f"Which defenses remove a backdoor from the model {bases} and still draw what was asked"
        " for?"
    )


def facts(records: Sequence[Record]) -> list[str]:
    """How much was measured."""
    protocol_, done = records[0].protocol, len(records) - len(cells_without_result(records))
    return [
        counted(len(attacks_of(records)), "attack"),
        counted(len([d for d in defenses_of(records) if d != "none"]), "defense"),
        counted(len({r.cell.seed for r in records}), "seed"),
        prompts_text(protocol_),
        f"scale {protocol_.get('scale', '?')}",
        f"{counted(done, 'cell')} done",
    ]


def failed(records: Sequence[Record]) -> str:
    wrong = len(cells_without_result(records))
    return counted(wrong, "cell") if wrong else ""
