"""Write docs/attacks.md, docs/defenses.md and docs/metrics.md from the registry: python -m bench.docs"""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

from bench import registry
from bench.registry import Entry, Registry, family_defaults

FOLDER = Path(__file__).resolve().parents[1] / "docs"
INTRODUCTION = {
    "attack": "Attacks train a clone of the clean model; `--attacks` takes these names and groups, and `a+b` injects a, then b, into one "
    "model (with triggers of their own, as in `a+b[trigger=WORD]`): the rows `a+b#1` and `a+b#2` judge its backdoors one by one.",
    "defense": "Defenses get the attacked model and what `needs` declares, nothing else; `--defenses` takes these names and groups, and "
    "`a+b` applies a, then b. A detector, a locator and a removal that needs the trigger make a removal that is not told it: what stands "
    "behind a locator gets the trigger that it found, and is left out where it found none.",
    "metric": "Metrics read the images of a cell; `--metrics` takes these names.",
}


def page(kind: Registry) -> str:
    """One Markdown page: a table of names, then a section for each class with its docstring and its options in both families."""
    kind.load()
    lines = [f"# {kind.kind.capitalize()}s", "", INTRODUCTION[kind.kind], "", "Written by `python -m bench.docs` from the registry.", ""]
    extra = {"attack": "edits", "defense": "needs", "metric": "better"}[kind.kind]
    lines += [f"| name | groups | {extra} | |", "|---|---|---|---|"]
    for entry in in_order(kind):
        info = entry.info.get(extra, "")
        info = info if isinstance(info, str) else ", ".join(info)
        lines.append(f"| `{entry.name}` | {', '.join(entry.groups)} | {info} | {first_sentence(entry)} |")
    for name, (parts, groups) in sorted(kind.compositions.items()):
        lines.append(f"| `{name}` | {', '.join(groups)} | | the composition `{parts}` |")
    for cls, entries in by_class(kind).items():
        lines += ["", f"## {', '.join(f'`{e.name}`' for e in entries)}", "", inspect.cleandoc(cls.__doc__ or ""), *options(entries)]
    return "\n".join(lines) + "\n"


def first_sentence(entry: Entry) -> str:
    text = " ".join(inspect.cleandoc(entry.cls.__doc__ or "").split("\n\n")[0].split())
    return text.replace("|", "\\|")


def in_order(kind: Registry) -> list[Entry]:
    """By name: the order of registration depends on what was imported first."""
    return sorted(kind.entries.values(), key=lambda e: e.name)


def by_class(kind: Registry) -> dict[type, list[Entry]]:
    found: dict[type, list[Entry]] = {}
    for entry in in_order(kind):
        found.setdefault(entry.cls, []).append(entry)
    return found


def options(entries: list[Entry]) -> list[str]:
    """The options of a class as a table: the defaults of the embedded base and of Stable Diffusion, and what each is."""
    cls = entries[0].cls
    fields = [f for f in dataclasses.fields(cls) if f.init]
    if not fields:
        return []
    small, large = family_defaults(cls, "shapes"), family_defaults(cls, "sd")
    lines = ["", "| option | shapes | sd | |", "|---|---|---|---|"]
    for f in fields:
        values = [repr(d.get(f.name, f.default)) for d in (small, large)]
        fixed = [f"`{e.name}`: {e.preset[f.name]!r}" for e in entries if f.name in e.preset]
        fixed += [f"`{e.name}` on shapes: {e.tuned[f.name]!r}" for e in entries if f.name in e.tuned]
        note = "; ".join(filter(None, [f.metadata.get("help", ""), *fixed]))
        lines.append(f"| `{f.name}` | {values[0]} | {values[1]} | {note} |".replace("  ", " "))
    return lines


def pages() -> dict[Path, str]:
    return {FOLDER / f"{kind.kind}s.md": page(kind) for kind in (registry.attacks, registry.defenses, registry.metrics)}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(FOLDER.parent))
