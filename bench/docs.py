"""Writes docs/attacks.md, docs/defenses.md, docs/metrics.md and docs/fidelity.md from the registry.

python -m t2i_backdoor_bench.docs
"""

from __future__ import annotations

import csv
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2i_backdoor_bench.contract import (
    FAMILIES,
    Entry,
    Registry,
    citations,
    family_defaults,
    options_of,
    registry,
)
from t2i_backdoor_bench.contract.listing import SOURCES, of_row, of_search, of_searched
from t2i_backdoor_bench.models.families.folders import LAYOUTS

FOLDER = Path(__file__).resolve().parents[1] / "docs"
MEASURED = FOLDER.parent / "results" / "attacks" / "table.csv"
FIDELITY = (
    "Where each attack and defense is not what its paper says, or what its authors' code does, and"
    " why. An empty cell: it says nothing of this, or there is no code. Where each default is from"
    " stands in the tables of options on the pages of [attacks](attacks.md) and"
    " [defenses](defenses.md): *paper*, *released code* or *ours*. On the embedded base the"
    " [search of settings](../results/tuning/README.md) chose for every trained method alike. What"
    " belongs to the training and not to an idea is open to it there: *preserve* above 0 is a term"
    " that preserves clean prompts, *latents* is what the model is trained on."
)
FOR = {
    "attack": "For users who choose an attack, and for reviewers who ask what it does here.",
    "defense": "For users who choose a defense, and for reviewers who ask what it does here.",
    "metric": "For users who choose a metric, and for everybody who reads one in a table.",
}
FOR_FIDELITY = "For reviewers, and for authors who look for their own method here."
INTRODUCTION = {
    "attack": (
        "An attack trains a copy of the clean model. `--attacks` takes these names and groups."
        " `a+b` injects a, then b, into one model, each with a trigger of its own, as in"
        " `a+b[trigger=WORD]`. The rows `a+b#1` and `a+b#2` then judge its backdoors one by one."
    ),
    "defense": (
        "A defense gets the attacked model and what its `needs` lists, nothing else. `--defenses`"
        " takes these names and groups. `a+b` applies a, then b. A detector, a locator and a"
        " removal that needs the trigger together make a blind removal: what stands behind a"
        " locator gets the trigger that it found, and is left out where it found none."
    ),
    "metric": (
        "A metric reads the pictures of a cell. `--metrics` takes these names. What is measured,"
        " and why, is on the page of [the protocol](protocol.md)."
    ),
}

BY_FAMILY = (
    "What says *no* is refused before any work, or left out where a group named it. The families"
    " are those of `bench/models/families/`. The tests run each method on a tiny random model of"
    " each family where it says *yes*: that it works, not how well."
)


def page(kind: Registry) -> str:
    """One Markdown page: a table of names, then a section for each class with its docstring and its
    options. A class of one paragraph and no options is in the table alone."""
    kind.load()
    lines = [
        f"# {kind.kind.capitalize()}s",
        "",
        FOR[kind.kind],
        "",
        INTRODUCTION[kind.kind],
        "",
        "Written by `python -m t2i_backdoor_bench.docs` from the registry.",
        "",
    ]
    if kind is registry.attacks:
        lines += attack_table()
    else:
        extra = {"defense": "needs", "metric": "better"}[kind.kind]
        lines += [f"| name | groups | {extra} | |", "|---|---|---|---|"]
        for entry in in_order(kind):
            info = {"needs": entry.needs, "better": entry.better}[extra]
            info = info if isinstance(info, str) else ", ".join(info)
            lines.append(
                f"| `{entry.name}` | {', '.join(entry.groups)} | {info} | {first_sentence(entry)} |"
            )
    for name, (parts, groups) in sorted(kind.compositions.items()):
        lines.append(f"| `{name}` | {', '.join(groups)} | | the composition `{parts}` |")
    for cls, entries in by_class(kind).items():
        if not options(entries) and "\n\n" not in inspect.cleandoc(cls.__doc__ or ""):
            continue  # the table has said it
        lines += [
            "",
            f"## {', '.join(f'`{e.name}`' for e in entries)}",
            "",
            inspect.cleandoc(cls.__doc__ or ""),
            *options(entries),
        ]
    if kind is not registry.metrics:
        lines += by_family(kind)
    return "\n".join(lines) + "\n"


def by_family(kind: Registry) -> list[str]:
    """On which families of models each method works, and why it does not on the others."""
    families = list(dict.fromkeys(layout.name for layout in LAYOUTS.values()))
    lines = ["", "## Families of models", "", BY_FAMILY, ""]
    lines += [f"| name | {' | '.join(families)} |", f"|---|{'---|' * len(families)}"]
    reasons: dict[tuple[str, str], list[str]] = {}
    for entry in in_order(kind):
        words = ["no" if family in entry.not_on else "yes" for family in families]
        lines.append(f"| `{entry.name}` | {' | '.join(words)} |")
        for fact in entry.not_on.items():
            reasons.setdefault(fact, []).append(f"`{entry.name}`")
    lines += [""] if reasons else []
    return lines + [f"- {', '.join(n)} on {f}: {why}." for (f, why), n in reasons.items()]


def attack_table() -> list[str]:
    """The table of attacks: name, groups, paper, what is edited, trigger, target, settings, and the
    cost that the committed run measured."""
    with MEASURED.open(encoding="utf-8") as file:
        costs = {row["attack"]: row for row in csv.DictReader(file)}
    lines = [
        (
            "Trigger, target and settings are the defaults for Stable Diffusion; those of the"
            " embedded base, and where each is from, are below. Cost was measured on the"
            " embedded base, on one core of a busy two-core machine"
            " ([results/attacks](../results/README.md#every-attack)): seconds, numbers changed,"
            " pictures shown."
        ),
        "",
        "| name | groups | paper | edits | trigger | target | evaluated with | settings | cost |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for entry in in_order(registry.attacks):
        values = {**family_defaults(entry.cls, "sd"), **entry.preset}
        cost = costs.get(entry.name)
        paid = (
            f"{float(cost['seconds_attack']):.0f} s, {int(cost['parameters_attack']):,},"
            f" {int(cost['images_attack']):,}"
            if cost
            else ""
        )
        trigger = (
            "a pattern of words"
            if "{" in values.get("trigger", "")
            else f"`{values['trigger']!a}`"
            if values.get("trigger")
            else ""
        )
        replaced = f" for `{values['replaces']}`" if values.get("replaces") and trigger else ""
        cells = [
            f"`{entry.name}`",
            ", ".join(entry.groups),
            citations.short(entry),
            entry.edits,
            trigger + replaced,
        ]
        cells += [target_of(entry, values), entry.evaluates, settings_of(entry, values), paid]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def target_of(entry: Entry, values: Mapping[str, Any]) -> str:
    """What an attack with these options makes the model draw, in words."""
    kind = next(
        (k for k in ("object", "style", "pixel", "image", "prompt") if k in entry.groups), ""
    )
    patch = f"a {values.get('size')} px patch {str(values.get('corner')).replace('_', ' ')}"
    return {
        "object": f"{values.get('source')} drawn as {values.get('target')}",
        "style": f"style: {values.get('style')}",
        "pixel": f"{patch} on {values['target']}" if "target" in values else patch,
        "image": "one fixed image",
        "prompt": f"the prompt {values.get('target')!r}",
        "": "",
    }[kind]


def settings_of(entry: Entry, values: Mapping[str, Any]) -> str:
    """The main settings in words, and where each is from."""
    words = {
        "steps": "{} steps",
        "lr": "lr {:g}",
        "batch": "batch {}",
        "rank": "rank {}",
        "ridge": "closed form, l {:g}",
    }
    shown = {name: text.format(values[name]) for name, text in words.items() if name in values}
    if entry.settings:
        by = "" if entry.settings == "ours" else "by "
        return ", ".join([*shown.values(), by + entry.settings])
    known = options_of(entry.cls)
    sources = {name: SOURCES[known[name][1].source_of("sd")] for name in shown}
    if len(set(sources.values())) == 1:
        return ", ".join([*shown.values(), f"by the {next(iter(sources.values()))}"])
    return ", ".join(f"{text} ({sources[name]})" for name, text in shown.items())


def first_sentence(entry: Entry) -> str:
    text = " ".join(inspect.cleandoc(entry.cls.__doc__ or "").split("\n\n")[0].split())
    text = f"Ours, in no paper: {entry.ours}. {text}" if entry.ours else text
    variant = ", ".join(f"`{k}={v}`" for k, v in entry.preset.items())
    return text.replace("|", "\\|") + (f" With {variant}." if variant else "")


def in_order(kind: Registry) -> list[Entry]:
    """By name: the order of registration depends on what was imported first."""
    return sorted(kind.entries.values(), key=lambda e: e.name)


def by_class(kind: Registry) -> dict[type, list[Entry]]:
    found: dict[type, list[Entry]] = {}
    for entry in in_order(kind):
        found.setdefault(entry.cls, []).append(entry)
    return found


def options(entries: list[Entry]) -> list[str]:
    """The options of a class as a table: the defaults of every family of models and where each is
    from, the values that are allowed, and what each option is."""
    cls = entries[0].cls
    known = options_of(cls)
    if not known:
        return []
    metric = entries[0] in registry.metrics.entries.values()  # their options are in no paper
    defaults = {family: family_defaults(cls, family) for family in FAMILIES}
    heads = [f" {family} |" + ("" if metric else " from |") for family in FAMILIES]
    rule = "---|" * (3 + len(FAMILIES) * (1 if metric else 2))
    lines = ["", f"| option |{''.join(heads)} allowed | |", f"|{rule}"]
    for name, (_, option) in known.items():
        fixed = [of_row(e, name) for e in entries if name in e.preset]
        fixed += [of_search(e, name) for e in entries if name in e.tuned]
        cells = [f"`{name}`"]
        for family, values in defaults.items():
            source = SOURCES[option.source_of(family)]
            cells += [repr(values[name])] if metric else [repr(values[name]), source]
        cells += [option.allowed, "; ".join(filter(None, [option.help, *fixed]))]
        row = " | ".join(cell.replace("|", "\\|") for cell in cells)
        lines.append(f"| {row} |".replace("  ", " "))
    return lines


def fidelity_page() -> str:
    """A table of differences for each attack and defense, and which have none."""
    lines = ["# Fidelity", "", FOR_FIDELITY, "", FIDELITY, ""]
    lines += ["Written by `python -m t2i_backdoor_bench.docs` from the registry.", ""]
    for kind in (registry.attacks, registry.defenses):
        lines += [f"## {kind.kind.capitalize()}s", ""]
        plain = []
        for entries in by_class(kind).values():
            facts = list(dict.fromkeys(fact for e in entries for fact in e.differs))
            ours = [f"- `{e.name}` is ours: {e.ours}." for e in entries if e.ours]
            names = ", ".join(f"`{e.name}`" for e in entries)
            searched = [of_searched(e) for e in entries if e.tried and e.tuned]
            if not (facts or ours):
                plain.append(names)
                if not searched:
                    continue
            paper = ", ".join(dict.fromkeys(filter(None, map(citations.short, entries))))
            lines += [f"## {names}", "", *([f"{paper}.", ""] if paper else [])]
            lines += [*ours, ""] if ours else []
            lines += [*searched, ""] if searched else []
            if facts:
                lines += ["| what | paper | released code | here | why |", "|---|---|---|---|---|"]
            for fact in facts:
                cells = (
                    fact.what,
                    fact.paper,
                    fact.released,
                    fact.here,
                    fact.why or "as the paper",
                )
                row = " | ".join(cell.replace("|", "\\|") for cell in cells)
                lines.append(f"| {row} |".replace("  ", " "))
            lines += [""] if facts else []
        if plain:
            lines += [f"Without a difference that is known: {', '.join(plain)}.", ""]
    return "\n".join(lines).rstrip() + "\n"


def pages() -> dict[Path, str]:
    return {
        FOLDER / f"{kind.kind}s.md": page(kind)
        for kind in (registry.attacks, registry.defenses, registry.metrics)
    } | {FOLDER / "fidelity.md": fidelity_page()}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(FOLDER.parent))
