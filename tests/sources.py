"""The source files of the repository, and what they import, read without importing them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "t2i_backdoor_bench"
METHODS = ("attacks", "defenses", "metrics")
FOLDERS = ("attacks", "bench", "benchmarks", "defenses", "examples", "metrics", "tests")
FILES = [p for folder in FOLDERS for p in sorted((ROOT / folder).rglob("*.py"))]
FILES += sorted(ROOT.glob("*.py"))


def where(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


SOURCES = [p for p in FILES if not where(p).startswith("tests/")]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def module_name(path: Path) -> str:
    """The module that a file of the package is: "bench/data/splits.py" is
    "t2i_backdoor_bench.data.splits"."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    parts = [PACKAGE, *parts[parts[0] == "bench" :]]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(p): p for p in SOURCES if where(p).split("/")[0] in ("bench", *METHODS)}


def room(module: str) -> str:
    """The room of a module: "data" for "t2i_backdoor_bench.data.splits", "" for the package."""
    return (*module.split("."), "")[1]


def _unguarded(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below `node` that are not under `if TYPE_CHECKING:`."""
    yield node
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        children = node.orelse
    else:
        children = list(ast.iter_child_nodes(node))
    for child in children:
        yield from _unguarded(child)


def imports(path: Path, type_checking: bool = True) -> set[str]:
    """Every module or name that a file imports anywhere in it, in full; relative ones with dots.

    `importlib.import_module` with a literal name counts too.
    """
    found: set[str] = set()
    for node in ast.walk(tree(path)) if type_checking else _unguarded(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            found.add("." * node.level + (node.module or ""))
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found |= {str(a.value) for a in node.args[:1] if isinstance(a, ast.Constant)}
    return found


def roots(path: Path) -> set[str]:
    """The top-level packages that a file imports."""
    return {m.split(".")[0] for m in imports(path) if not m.startswith(".")}


def modules_imported(path: Path, type_checking: bool = True) -> set[str]:
    """Our own modules that a file imports. A name that a package defines counts as the package."""
    found = set()
    for name in imports(path, type_checking):
        if name.split(".")[0] == PACKAGE:
            while name not in MODULES:
                name = name.rpartition(".")[0]
            found.add(name)
    return found
