"""The methods that there are, read from their files without importing them.

The `list` verb and the report need names and facts alone. Importing the methods would import torch,
which takes seconds, so the decorators and docstrings are read with `ast`.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t2i_backdoor_bench.contract import registry
from t2i_backdoor_bench.contract.fidelity import summary
from t2i_backdoor_bench.contract.plugged import points
from t2i_backdoor_bench.contract.registry import Entry, Registry

SOURCES = {"paper": "paper", "released": "released code", "ours": "ours"}  # of defaults, in words
KINDS: Mapping[str, Registry] = {
    kind.kind: kind for kind in (registry.attacks, registry.defenses, registry.metrics)
}


@dataclass(frozen=True)
class Listed:
    """One method, or a composition of defenses that has a name.

    `facts` are the keywords of its decorator (`edits`, `needs`, `better`, `title`, `paper`, ...);
    what the decorator leaves out is left out here, but a metric always has `title`, `short` and
    `group`. `parts` is "a+b" for a composition, "" for a method.
    """

    kind: str
    name: str
    groups: tuple[str, ...] = ()
    summary: str = ""  # the first line of the docstring
    facts: Mapping[str, Any] = field(default_factory=dict)
    doc: str = ""
    parts: str = ""

    @property
    def paper(self) -> str:
        return self.facts.get("paper", "")


def listed(kind: str) -> list[Listed]:
    """Every method of a kind ("attack", "defense" or "metric") by name.

    The built-in ones are read from their files. What other packages have installed, or this process
    has registered, is taken from the registry.
    """
    known = KINDS[kind]
    found = {method.name: method for method in _built_in(kind)}
    if points(f"{kind}s"):
        known.load()
    entries = [entry for name, entry in known.entries.items() if name not in found]
    found |= {entry.name: _from_entry(kind, entry) for entry in entries}
    return [found[name] for name in sorted(found)]


def _built_in(kind: str) -> Iterator[Listed]:
    package = importlib.util.find_spec(f"t2i_backdoor_bench.{kind}s")
    for folder in package.submodule_search_locations:
        for file in sorted(Path(folder).glob("*.py")):
            body = ast.parse(file.read_bytes()).body
            texts = _texts(body)
            for node in body:
                if isinstance(node, ast.ClassDef):
                    yield from _from_class(kind, node, texts)
                elif isinstance(node, ast.Expr) and _called(node.value) == "compose":
                    name, parts, *rest = _arguments(node.value)
                    groups = rest[0] if rest else _keywords(node.value, texts).get("groups", ())
                    yield Listed(kind, name, tuple(groups), f"the composition {parts}", parts=parts)


def _from_class(kind: str, node: ast.ClassDef, texts: Mapping[str, Any]) -> Iterator[Listed]:
    doc = ast.get_docstring(node) or ""
    for decorator in node.decorator_list:
        if _called(decorator) == f"register_{kind}":
            (name,), facts = _arguments(decorator), _keywords(decorator, texts)
            groups = tuple(facts.pop("groups", ()))
            if "needs" in facts:
                facts["needs"] = registry.ordered_needs(name, facts["needs"])
            if kind == "metric":
                facts |= registry.shown(name, **{k: facts.get(k, "") for k in registry.SHOWN})
            yield Listed(kind, name, groups, summary(doc, facts.get("ours", "")), facts, doc)


def _from_entry(kind: str, entry: Entry) -> Listed:
    doc = inspect.cleandoc(entry.doc)
    facts = {k: v for k, v in vars(entry).items() if k not in ("name", "cls", "groups") and v}
    return Listed(kind, entry.name, entry.groups, entry.summary, facts, doc)


def _called(node: ast.expr) -> str:
    """The name of the function that an expression calls, without its module; "" where it calls
    none."""
    if not isinstance(node, ast.Call):
        return ""
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else ast.unparse(function)


def _arguments(call: ast.expr) -> list[Any]:
    return [ast.literal_eval(argument) for argument in call.args]


def _texts(body: list[ast.stmt]) -> dict[str, Any]:
    """The texts, and mappings of texts, that a module gives a name, such as PAPER = "..."."""
    found = {}
    for node in body:
        if isinstance(node, ast.Assign) and isinstance(node.value, (ast.Constant, ast.Dict)):
            try:
                value = ast.literal_eval(node.value)
            except ValueError:
                continue
            found |= {ast.unparse(name): value for name in node.targets}
    return found


def _keywords(call: ast.expr, texts: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords whose values are written out or named in `texts`; a value that is computed is
    left out."""
    found = {}
    for keyword in call.keywords:
        if isinstance(keyword.value, ast.Name) and keyword.value.id in texts:
            found[keyword.arg] = texts[keyword.value.id]
            continue
        try:
            found[keyword.arg] = ast.literal_eval(keyword.value)
        except ValueError:
            continue
    return found


def of_row(entry: Entry, name: str) -> str:
    """What a row fixes of an option, and where it is from; a choice that the row's name stands for
    is from nowhere."""
    source = entry.sources.get(name)
    said = f" ({SOURCES[source]})" if source else ""
    return f"`{entry.name}`: {entry.preset[name]!r}{said}"


def of_search(entry: Entry, name: str) -> str:
    """A row's own default on the embedded base, and whether the search of settings chose it."""
    value = entry.tuned[name]
    found = entry.tried and value != entry.declared.get(name)
    return f"`{entry.name}` on shapes: {value!r} ({'search' if found else 'ours'})"


def of_searched(entry: Entry) -> str:
    """What a row's search of settings chose for the embedded base."""
    chosen = {n: v for n, v in entry.tuned.items() if v != entry.declared.get(n)}
    found = ", ".join(f"{name} {value}" for name, value in chosen.items())
    return f"- `{entry.name}` on the embedded base, by the search of settings: {found}."
