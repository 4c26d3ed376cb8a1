"""The import rule of the design, and what must not be in the tree: other argument parsers,
pickles."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
METHODS = ("attacks", "defenses", "metrics")
FILES = [
    p
    for folder in ("attacks", "bench", "benchmarks", "defenses", "metrics", "tests")
    for p in sorted((ROOT / folder).rglob("*.py"))
]
FILES += sorted(ROOT.glob("*.py"))
SOURCES = [p for p in FILES if p.relative_to(ROOT).parts[0] != "tests"]


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> set[str]:
    """Every module that a file imports anywhere in it, in full."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
            found |= {
                f"{node.module}.{alias.name}"
                for alias in node.names
                if node.module and not node.level
            }
    return found


def roots(path: Path) -> set[str]:
    return {m.split(".")[0] for m in imports(path) if not m.startswith(".")}


def test_there_is_something_to_check() -> None:
    assert len(SOURCES) > 30
    assert {p.relative_to(ROOT).parts[0] for p in SOURCES} >= {
        "attacks",
        "bench",
        "defenses",
        "metrics",
        "run_bench.py",
    }


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if p.relative_to(ROOT).parts[0] in METHODS], ids=ids
)
def test_methods_import_the_core_and_never_each_other(path: Path) -> None:
    assert not roots(path) & {*METHODS, "run_bench", "tests"}
    assert not any(m.startswith(".") for m in imports(path)), (
        "what two methods share moves into bench"
    )


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if p.relative_to(ROOT).parts[0] == "bench"], ids=ids
)
def test_the_core_imports_no_method(path: Path) -> None:
    assert not roots(path) & {*METHODS, "run_bench", "tests"}


def test_the_command_imports_the_core_only() -> None:
    assert not roots(ROOT / "run_bench.py") & set(METHODS)


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_only_commands_parse_arguments(path: Path) -> None:
    parsers = {"argparse", "click", "typer", "fire", "optparse", "getopt"} & roots(path)
    where = path.relative_to(ROOT).as_posix()
    command = where == "run_bench.py" or where.startswith(("bench/shapes/", "benchmarks/"))
    assert not parsers or (command and "__main__" in path.read_text("utf-8")), parsers


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_no_pickle_is_written_or_read(path: Path) -> None:
    assert not roots(path) & {
        "pickle",
        "cPickle",
        "dill",
        "cloudpickle",
        "joblib",
        "shelve",
        "marshal",
    }
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name in ("torch.load", "load_checkpoint") or name.endswith(".load_state_dict_from_url"):
            safe = [k.value for k in node.keywords if k.arg == "weights_only"]
            assert safe, f"line {node.lineno}: {name} without weights_only"
            assert isinstance(safe[0], ast.Constant), f"line {node.lineno}"
            assert safe[0].value is True, f"line {node.lineno}"
        if name in ("np.load", "numpy.load"):
            assert not any(
                k.arg == "allow_pickle" and getattr(k.value, "value", True) for k in node.keywords
            ), f"line {node.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_no_global_seed_and_no_eval(path: Path) -> None:
    """A method that reads global random state would make tables depend on what ran before."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in (
                "eval",
                "exec",
                "np.random.seed",
                "numpy.random.seed",
                "random.seed",
            ), f"line {node.lineno}: {name}"
