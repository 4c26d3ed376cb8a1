"""docs/architecture.md says what the code is: its rooms, its pictures, and the way to a stored
cell."""

from __future__ import annotations

import ast
import re

import pytest
from helpers import load_script
from sources import METHODS, ROOT
from test_architecture import MAY_IMPORT, ROOMS

architecture = load_script(ROOT / "benchmarks" / "architecture.py")
PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
FILES, LINES = 10, 1500


def table(heading: str) -> dict[str, list[str]]:
    """The first table under a heading: the other columns, by the first."""
    part = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| `")]
    assert rows, f"no table under {heading}"
    return {row[0].replace("`", ""): row[1:] for row in rows}


def test_the_table_of_rooms_is_that_of_the_import_rules() -> None:
    found = table("Rooms")
    assert found.keys() == {*ROOMS, ", ".join(f"{kind}/" for kind in METHODS)}
    for room in ROOMS - {"running"}:
        named = set(re.findall(r"\w+", found[room][1].partition(";")[0]))
        assert named == MAY_IMPORT[room], room
    assert found["running"][1] == "every room but report"


@pytest.mark.parametrize("path", architecture.pictures(), ids=lambda p: p.name)
def test_pictures_are_up_to_date(path) -> None:
    new = architecture.pictures()[path]
    assert path.read_text("utf-8") == new, "run python benchmarks/architecture.py"


def test_every_room_stands_above_what_it_imports() -> None:
    graph, row = architecture.rooms(), {r: y for r, (y, _) in architecture.PLACES.items()}
    assert graph.keys() == row.keys()
    assert graph["targets"] >= {"contract", "models"}
    for room, others in graph.items():
        assert all(row[room] < row[other] for other in others), room


def test_an_import_that_a_longer_way_shows_has_no_arrow() -> None:
    graph = {"a": {"b", "c"}, "b": {"c"}, "c": set(), "d": {"c"}}
    assert architecture.reduced(graph) == {"a": {"b"}, "b": {"c"}, "c": set(), "d": {"c"}}


def test_stages_of_the_picture_are_functions_of_the_code() -> None:
    for _, file, function, _, _ in architecture.STAGES:
        tree = ast.parse((ROOT / "bench" / "running" / file).read_text("utf-8"))
        assert function in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}


def test_the_way_to_a_stored_cell_is_short() -> None:
    found = table("From the command to a stored cell")
    lines = {name: len((ROOT / name).read_text("utf-8").splitlines()) for name in found}
    assert len(lines) <= FILES
    assert sum(lines.values()) <= LINES, lines
    for name, (about, _) in found.items():
        assert abs(int(about) - lines[name]) <= max(20, 0.2 * lines[name]), (name, lines[name])


def test_each_file_of_the_way_is_imported_by_another_of_it() -> None:
    """So that no file between two of the list is left out."""
    names = list(table("From the command to a stored cell"))
    for name in names[1:]:
        stem = name.removeprefix("bench/").removesuffix(".py").replace("/", ".")
        others = "".join((ROOT / n).read_text("utf-8") for n in names if n != name)
        assert f"t2i_backdoor_bench.{stem} import" in others, name
