"""What the site of the pages is made of, and what every page owes its reader."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest
from helpers import load_script
from sources import ROOT

import t2i_backdoor_bench as bench
from t2i_backdoor_bench import contract, flags

docs_site = load_script(ROOT / "benchmarks" / "docs_site.py")
PAGES = sorted((ROOT / "docs").glob("*.md"))
INNER = {"amounts", "no_exit", "suggest", "swapped", "whole"}  # of the contract, for the core


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_a_page_says_first_whom_it_is_for(path: Path) -> None:
    title, nothing, first, after = path.read_text("utf-8").split("\n", 3)
    assert title.startswith("# ")
    assert nothing == ""
    assert re.fullmatch(r"For [^|]{10,160}\.", first), f"{path.name} begins with {first!r}"
    assert after.startswith("\n"), "it is a paragraph of its own"


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_every_page_is_in_the_navigation_once(path: Path) -> None:
    text = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:\n")[2]
    assert len(re.findall(rf"(?m) docs/{re.escape(path.name)}$", text)) == 1


def test_the_site_has_what_its_pages_link_to(tmp_path: Path, monkeypatch) -> None:
    found = {path.relative_to(ROOT).as_posix() for path in docs_site.published()}
    assert {"README.md", "CHANGELOG.md", "docs/manual.md", "docs/rooms.svg"} <= found
    assert "results/core/leaderboard.md" in found, "also of pages outside of docs/"
    assert not [name for name in found if name.startswith(("tests/docs", "results/run-"))]

    monkeypatch.setattr(docs_site, "ROOT", tmp_path / "own")
    (tmp_path / "own" / "docs").mkdir(parents=True)
    for name, text in {
        "own/README.md": "[a](docs/a.md#x) [dead](gone.md) [out](../out.md) [web](https://x.org)",
        "own/docs/a.md": "[back](../README.md) ![p](../p.png) [folder](../docs)",
        "own/p.png": "",
        "own/unlinked.md": "",
        "own/docs/site.css": "",
        "out.md": "",
    }.items():
        (tmp_path / name).write_text(text)
    own = [p.relative_to(tmp_path / "own").as_posix() for p in docs_site.published()]
    assert own == ["README.md", "docs/a.md", "docs/site.css", "p.png"]


def test_marks_of_tables_are_not_on_the_site() -> None:
    text = "- a\n  <!-- value:\n x -->12<!-- end --> %\n- b"
    assert docs_site.on_page_markdown(text, page=None) == "- a\n  12 %\n- b"


def test_the_reference_has_every_public_name() -> None:
    text = (ROOT / "docs" / "reference.md").read_text("utf-8")
    named = {}
    for path in re.findall(r"(?m)^::: (\S+)$", text):
        module, _, name = path.rpartition(".")
        named[name] = vars(importlib.import_module(module))[name]
        assert named[name].__module__ == module, f"{path} is defined elsewhere"
        assert named[name].__doc__, path
    assert set(bench.__all__) <= named.keys()
    public = {name for name in contract.__all__ if callable(vars(contract)[name])}
    assert public - named.keys() == INNER


def test_the_members_that_the_reference_names_are_there() -> None:
    text = (ROOT / "docs" / "reference.md").read_text("utf-8")
    found = re.findall(r"(?m)^::: (\S+)\n    options:\n      members: \[(.*)\]$", text)
    assert found
    for path, members in found:
        module, _, name = path.rpartition(".")
        cls = vars(importlib.import_module(module))[name]
        assert [m for m in members.split(", ") if m not in dir(cls)] == [], path


def test_the_container_is_made_of_the_package_and_runs_the_smoke_job() -> None:
    text = (ROOT / "Dockerfile").read_text("utf-8")
    sources = {*copied(text), "README.md", "LICENSE", "pyproject.toml"}
    assert {"bench", "attacks", "defenses", "metrics"} <= sources
    kept = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert {line[1:] for line in kept if line.startswith("!")} == sources
    assert re.search(r"(?m)^ARG TORCH=cpu$", text)
    (entry,), (command,) = (
        re.findall(rf"(?m)^{word} (\[.*\])$", text) for word in ("ENTRYPOINT", "CMD")
    )
    assert json.loads(entry) == ["t2i-backdoor-bench"]
    verb, *given = json.loads(command)
    assert verb == "run"
    assert flags.make_parser().parse_args(given).scale == "smoke"


def copied(text: str) -> set[str]:
    """The folders and files that a Dockerfile copies."""
    found = set()
    for line in re.findall(r"(?m)^COPY (.*)$", text):
        *parts, _ = line.split()
        assert all((ROOT / part).exists() for part in parts), line
        found |= set(parts)
    return found


def test_a_machine_of_others_runs_what_ci_runs() -> None:
    flow = (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    assert "- run: .ci/run\n" in flow
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    # with --quiet mkdocs counts no warning, and a dead link passes
    assert script.rstrip().endswith("-m mkdocs build --strict")
