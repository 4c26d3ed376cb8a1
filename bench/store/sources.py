"""The source files that a number depends on, and what of them has changed since it was made.

A file counts as changed where its code differs: comments, docstrings and layout do not count. Files
that are imported count, too, whether or not the number went through them.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from t2i_backdoor_bench.contract.hashing import digest
from t2i_backdoor_bench.store.provenance import KINDS, PACKAGE, ROOT, sources

NAME = "t2i_backdoor_bench"
# they decide which numbers are made, what they are called and where they are kept, and not what
# they are
ROOMS = ("running", "store", "report")
CONTRACT = ("cell", "citations", "errors", "listing", "methods", "names", "printable", "progress")
APART = (
    *(f"{NAME}.{room}" for room in ROOMS),
    *(f"{NAME}.contract.{name}" for name in (*CONTRACT, "protocols", "registry")),
)

Sources = Mapping[str, str]  # module -> digest of its code


def sources_of(modules: Iterable[str]) -> dict[str, str]:
    """The modules, and all that they import of this package, with the digest of each one's code. A
    module of another package stands for itself. What has no file, as in a notebook, is left out."""
    found: dict[str, str] = {}
    left = list(modules)
    while left:
        name = left.pop()
        path = file_of(name)
        if name in found or path is None:
            continue
        found[name], imported = _read(path, name)
        left += [m for m in imported if not m.startswith(APART)]
    return dict(sorted(found.items()))


def changed(stored: Sources, now: Sources) -> list[str]:
    """The modules of `stored` whose code is another now, or that are gone."""
    return [name for name, code in stored.items() if now.get(name) != code]


def short(module: str) -> str:
    """The file of a module as the repository has it, such as "defenses/uce.py"; the name of a
    module of another package."""
    path = file_of(module)
    if path is None or not module.startswith(NAME):
        return module
    inner = path.relative_to(PACKAGE) if path.is_relative_to(PACKAGE) else path.relative_to(ROOT)
    beside = inner.parts[0] in (*KINDS, PACKAGE.name)
    return (inner if beside else Path("bench", inner)).as_posix()


def file_of(module: str) -> Path | None:
    """The file of a module: of this package without importing it, of another where it is loaded."""
    if module == NAME or module.startswith(f"{NAME}."):
        return _own_file(module)
    loaded = sys.modules.get(module)
    named = vars(loaded).get("__file__") if loaded is not None else None  # a notebook has none
    path = Path(named) if named else None
    return path if path is not None and path.suffix == ".py" and path.is_file() else None


@cache
def _own_file(module: str) -> Path | None:
    parts = module.split(".")[1:]
    for folder, path in sources().items():
        if list(folder.parts) == parts[: len(folder.parts)]:
            inner = path.joinpath(*parts[len(folder.parts) :])
            for file in (inner.with_suffix(".py"), inner / "__init__.py"):
                if file.is_file():
                    return file
    return None


@cache
def _read(path: Path, module: str) -> tuple[str, tuple[str, ...]]:
    """The digest of a file's code, and the modules of this package that it imports. Read once: a
    file that is edited during a run does not change the code of the run."""
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            node.body = [part for part in node.body if not _text(part)] or [ast.Pass()]
    own = path.is_relative_to(PACKAGE) or module.startswith(f"{NAME}.")
    imported = tuple(dict.fromkeys(_imports(tree))) if own else ()
    return digest(ast.dump(tree))[:16], imported


def _text(node: ast.AST) -> bool:
    """Whether a statement is a text alone: a docstring."""
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(NAME):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith(NAME))
