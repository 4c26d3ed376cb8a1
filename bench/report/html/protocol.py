"""The sections Protocol and Cite: what a reader needs to compare, to repeat and to cite a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from t2i_backdoor_bench.contract import Record, citations
from t2i_backdoor_bench.contract.listing import listed
from t2i_backdoor_bench.contract.names import parts_of
from t2i_backdoor_bench.report.html.cells import RATES
from t2i_backdoor_bench.report.html.names import attacks_of, defenses_of, flat
from t2i_backdoor_bench.report.main_table import columns
from t2i_backdoor_bench.report.metrics import metric_names
from t2i_backdoor_bench.report.numbers import DASH
from t2i_backdoor_bench.report.rows import rows
from t2i_backdoor_bench.store.folder import Store


def protocol(
    store: Store, records: Sequence[Record], manifest: Mapping[str, Any]
) -> dict[str, Any]:
    """What a reader must know to compare and to repeat the numbers."""
    ways = columns(records, rows(records))
    settings = store.path("run.yaml")
    return {
        "glossary": [
            (way.short if way.short == way.title else f"{way.short}, {way.title}", way.about)
            for way in ways
            if way.about
        ],
        "protocol": flat(records[0].protocol),
        "attacks": attack_facts(records),
        "judges": [
            _judge(name, j) for name, j in manifest.get("judges", {}).items() if j.keys() >= RATES
        ],
        "origin": _origin(manifest),
        "settings": settings.read_text("utf-8", errors="replace") if settings.is_file() else "",
        "prompts": manifest.get("example_prompts") or [],
    }


FACTS = {
    "trigger_kind": "Kind of trigger",
    "trigger": "Trigger",
    "poison_share": "Share of training with the trigger",
    "evaluates_with": "Its paper evaluates with",
    "settings_by": "Settings chosen by",
}


def attack_facts(records: Sequence[Record]) -> dict[str, Any] | None:
    """Under which conditions each attack was made and is judged; None where no record says it."""
    told = {r.cell.attack: r.attack for r in records if r.attack}
    rows = [(a, [_fact(k, found.get(k)) for k in FACTS]) for a, found in told.items()]
    return {"heads": list(FACTS.values()), "rows": rows} if rows else None


def _fact(name: str, value: Any) -> str:
    if value in (None, ""):
        return DASH
    return f"{100 * value:.0f} %" if name == "poison_share" else str(value)


def _judge(name: str, judge: Mapping[str, Any]) -> dict[str, Any]:
    rates = (judge["false_positive_rate"], judge["true_positive_rate"])
    numbers = [*(f"{100 * rate:.1f}" for rate in rates), f"{judge['threshold']:.3g}", judge["n"]]
    return {"name": name, "numbers": numbers}


def _origin(manifest: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    found = []
    if manifest.get("hardware"):
        found.append(("Hardware", flat(manifest["hardware"])))
    if manifest.get("versions"):
        commit = [("commit", manifest["commit"])] if manifest.get("commit") else []
        found.append(("Versions", flat(manifest["versions"]) + commit))
    return found


def cite(records: Sequence[Record], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """BibTeX of every method in the run, as the run wrote it down; of older folders from the
    methods that are known here."""
    found = manifest.get("citations") or papers_of(records)
    lines = [p["short"] + (": " + ", ".join(p["methods"]) if p["methods"] else "") for p in found]
    return {"papers": lines, "bibtex": "\n\n".join(p["bibtex"] for p in found if p["bibtex"])}


def papers_of(records: Sequence[Record]) -> list[dict[str, Any]]:
    """The papers of the methods that are named in records and known here."""
    named = {
        "attack": attacks_of(records),
        "defense": defenses_of(records),
        "metric": metric_names(records),
    }
    methods = []
    for kind, names in named.items():
        known = {method.name: method for method in listed(kind)}
        parts = dict.fromkeys(p.split("[")[0] for name in names for p in parts_of(name))
        methods += [known[p] for p in parts if p in known]
    return [
        {"short": p.short, "methods": names, "bibtex": p.bibtex}
        for p, names in citations.of_run(methods)
    ]
