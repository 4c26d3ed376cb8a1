"""Calls and imports that must not be in the tree: pickles, global seeds, eval, argument parsers
outside of commands, other names of the package."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from sources import FILES, METHODS, ROOT, SOURCES, roots, tree, where


def test_the_package_has_one_name() -> None:
    """`import bench` or `import attacks` would work in the repository and not when installed."""
    other = {"bench", *METHODS, "run_bench", "tests"}
    assert not [where(path) for path in SOURCES if roots(path) & other]


def test_only_commands_parse_arguments() -> None:
    parsers = {"argparse", "click", "typer", "fire", "optparse", "getopt"}
    for path in SOURCES:
        command = where(path) in ("run_bench.py", "bench/command.py", "bench/flags.py")
        script = where(path).startswith(("bench/shapes/", "benchmarks/", "examples/"))
        script = script and "__main__" in path.read_text("utf-8")
        assert not parsers & roots(path) or command or script, where(path)


def test_no_pickle_is_written_or_read() -> None:
    pickles = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    assert not [where(path) for path in FILES if roots(path) & pickles]
    for path, node in calls(FILES):
        name, line = ast.unparse(node.func), f"{where(path)}, line {node.lineno}"
        if name in ("torch.load", "load_checkpoint") or name.endswith(".load_state_dict_from_url"):
            safe = [k.value for k in node.keywords if k.arg == "weights_only"]
            assert safe, f"{line}: {name} without weights_only"
            assert isinstance(safe[0], ast.Constant), line
            assert safe[0].value is True, line
        if name in ("np.load", "numpy.load"):
            for k in node.keywords:
                literal = isinstance(k.value, ast.Constant) and not k.value.value
                assert k.arg != "allow_pickle" or literal, line


def test_no_global_seed_and_no_eval() -> None:
    """A method that reads global random state would make tables depend on what ran before."""
    forbidden = ("eval", "exec", "np.random.seed", "numpy.random.seed", "random.seed")
    for path, node in calls(SOURCES):
        assert ast.unparse(node.func) not in forbidden, f"{where(path)}, line {node.lineno}"


def calls(paths: Sequence[Path]) -> Iterator[tuple[Path, ast.Call]]:
    for path in paths:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call):
                yield path, node


def test_nothing_that_is_published_names_a_folder_of_a_machine() -> None:
    """Run folders, printed examples and pages are read elsewhere."""
    folders = re.compile(r"(/home/|/Users/|/root/|/work/|/tmp/|[A-Z]:\\\\?Users)")
    kept = (".json", ".txt", ".md", ".csv", ".tex", ".html", ".yaml")
    for name in ("results", "examples", "docs"):
        paths = [p for p in (ROOT / name).rglob("*") if p.suffix in kept]
        # a run folder that somebody made here is not published
        for path in (p for p in paths if not p.parts[len(ROOT.parts) + 1].startswith("run-")):
            assert not folders.search(path.read_text("utf-8")), path.relative_to(ROOT)
