"""Which room may import which, and how large a module, a function and a method file may be."""

from __future__ import annotations

import ast
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter

from sources import (
    FILES,
    METHODS,
    MODULES,
    PACKAGE,
    ROOT,
    SOURCES,
    imports,
    modules_imported,
    room,
    tree,
    where,
)

# The rooms that the modules of a room may import, besides their own.
MAY_IMPORT = {
    "contract": set(),
    "models": {"contract"},
    "data": {"contract"},
    "stats": {"contract"},
    "store": {"contract"},
    "training": {"contract", "models"},
    "targets": {"contract", "data", "models"},
    "scoring": {"contract", "data", "models", "stats", "targets"},
    "detecting": {"contract", "data", "models", "scoring", "stats", "training"},
    "attacking": {"contract", "data", "models", "targets", "training"},
    "shapes": {"contract", "data", "models", "scoring", "training"},
    "report": {"contract", "stats", "store"},
}
ROOMS = {*MAY_IMPORT, "running"}
MAY_IMPORT["running"] = ROOMS - {"report"}
MAY_IMPORT |= {kind: ROOMS - {"report", "running"} for kind in METHODS}
JOIN = ("command", "verbs", "api", "docs")  # these alone may import both running and report
MAY_IMPORT |= {name: {*ROOMS, *METHODS, *JOIN, "flags", "completion"} for name in JOIN}
MAY_IMPORT |= {"": set(), "__main__": {"command"}, "flags": {"contract", "running"}}
MAY_IMPORT["completion"] = {"contract", "flags", "models", "running"}

HEAVY = {"torch", "torchvision", "diffusers", "transformers", "open_clip", "torchmetrics"}
MODULE_LINES, FUNCTION_LINES, METHOD_LINES, PROBES = 300, 60, 100, 10

# Files that do not follow every rule yet, and which rules. A file that follows all of them now must
# be taken out.
KNOWN_EXCEPTIONS: dict[str, str] = {}


# -------------------------------------------------------------------------------------------- rules
def wrong_rooms() -> Iterator[tuple[str, str]]:
    """Imports across rooms that the table does not allow."""
    for name, path in MODULES.items():
        allowed = MAY_IMPORT.get(room(name))
        if allowed is None:
            yield where(path), f"is in the room {room(name)}, which has no import rule"
            continue
        own = set() if room(name) in METHODS else {room(name)}
        for other in modules_imported(path):
            if other == name or room(other) in allowed | own:
                continue
            yield where(path), f"imports {other}"
        for dotted in imports(path):
            if dotted.startswith("."):
                yield where(path), "has a relative import"


def torch_in_the_report() -> Iterator[tuple[str, str]]:
    """Modules of the report that import torch, or import a module that does."""
    for start in (name for name in MODULES if room(name) == "report"):
        waiting, seen = [start], {start}
        while waiting:
            path = MODULES[name := waiting.pop()]
            heavy = {n.split(".")[0] for n in imports(path, type_checking=name == start)} & HEAVY
            if heavy:
                yield where(MODULES[start]), f"imports {', '.join(sorted(heavy))} by {where(path)}"
                break
            new = modules_imported(path, type_checking=name == start) - seen
            seen |= new
            waiting += new


def circles() -> Iterator[tuple[str, str]]:
    """One import circle, if there is any."""
    graph = {name: modules_imported(path) - {name} for name, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield where(MODULES[min(error.args[1])]), f"is in a circle: {' -> '.join(error.args[1])}"


def large() -> Iterator[tuple[str, str]]:
    """Modules and functions that are too long."""
    for path in FILES:
        lines = len(path.read_text("utf-8").splitlines())
        if lines > MODULE_LINES:
            yield where(path), f"has {lines} lines"
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                if lines > FUNCTION_LINES:
                    yield where(path), f"the function {node.name} has {lines} lines"


def unexplained_probes() -> Iterator[tuple[str, str]]:
    """Each `getattr(` of the core without a comment on its line or on the line above."""
    for name, path in MODULES.items():
        if room(name) in METHODS:
            continue
        lines = path.read_text("utf-8").splitlines()
        for i, line in enumerate(lines):
            above = lines[i - 1].strip() if i else ""
            if "getattr(" in line and "#" not in line and not above.startswith("#"):
                yield where(path), f"line {i + 1}: getattr without its reason in a comment"


def too_many_probes() -> Iterator[tuple[str, str]]:
    """More uses of `getattr(` in the core than are allowed."""
    core = [path for name, path in MODULES.items() if room(name) not in METHODS]
    probes = sum("getattr(" in line for p in core for line in p.read_text("utf-8").splitlines())
    if probes > PROBES:
        yield "bench", f"has {probes} getattr, and {PROBES} are allowed"


RULES = (wrong_rooms, torch_in_the_report, circles, large, unexplained_probes, too_many_probes)


@cache
def violations() -> dict[str, list[str]]:
    """What each file does wrong, by path."""
    found = defaultdict(list)
    for rule in RULES:
        for path, message in rule():
            found[path].append(f"{path}: {message}")
    return found


def test_every_file_follows_the_rules() -> None:
    wrong = violations()
    new = [m for path in wrong.keys() - KNOWN_EXCEPTIONS.keys() for m in wrong[path]]
    assert not new, "\n" + "\n".join(sorted(new))


def test_known_exceptions_are_still_exceptions() -> None:
    stale = KNOWN_EXCEPTIONS.keys() - violations().keys()
    assert not stale, f"these files follow the rules now, or are gone: {sorted(stale)}"
    assert all(KNOWN_EXCEPTIONS.values()), "every exception has a reason"


# ------------------------------------------------------------------------------- the whole package
def test_there_is_something_to_check() -> None:
    assert len(SOURCES) > 100
    assert {*ROOMS, *METHODS} <= {room(name) for name in MODULES}
    assert {where(p).split("/")[0] for p in SOURCES} >= {"bench", *METHODS, "run_bench.py"}
    assert modules_imported(ROOT / "bench" / "data" / "splits.py") >= {
        f"{PACKAGE}.contract",
        f"{PACKAGE}.data.world",
    }, "the tests below would hold for any code"


def test_most_method_files_are_short() -> None:
    lines = [
        len(path.read_text("utf-8").splitlines())
        for name, path in MODULES.items()
        if room(name) in METHODS and path.name != "__init__.py"
    ]
    assert statistics.median(lines) <= METHOD_LINES


def test_the_command_names_no_method() -> None:
    """A method is found by its file: nothing but the file is needed to add one."""
    for path in (p for p in SOURCES if where(p).split("/")[0] in ("bench", "run_bench.py")):
        if path.stem != "docs":
            assert not {room(m) for m in modules_imported(path)} & set(METHODS), where(path)


def test_no_two_files_of_tests_have_one_name() -> None:
    """They are imported by their bare names: the second of two would not be collected."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("*.py"))
    assert not [name for name, count in names.items() if count > 1]
