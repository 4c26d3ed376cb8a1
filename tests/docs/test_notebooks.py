"""The notebooks of examples/: committed without outputs, and run here in small, top to bottom."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from sources import ROOT

NOTEBOOKS = {path.stem: path for path in sorted((ROOT / "examples").glob("*.ipynb"))}
# Behind the cell of settings: few pictures, rough ones, and one folder, so that the second notebook
# finds what the first has made.
FEW = """
SETTINGS |= {"n": 2, "steps": 2, "out": "results/run-of-the-test"}
SETTINGS["set"] = {"eviledit.prompts": 16}
"""


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_committed_as_it_was_written(name: str) -> None:
    book = nbformat.read(NOTEBOOKS[name], as_version=4)
    nbformat.validate(book)
    assert book.cells[0].source.startswith("# ")
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert not [cell for cell in code if cell.outputs or cell.execution_count]


def test_the_notebooks_run(tmp_path: Path) -> None:
    """One after the other in one kernel, so that libraries are loaded once."""
    assert len(NOTEBOOKS) == 2, "run the new one, too"
    whole = nbformat.v4.new_notebook()
    for path in (NOTEBOOKS["first_table"], NOTEBOOKS["add_a_defense"]):
        book = nbformat.read(path, as_version=4)
        (settings,) = (c for c in book.cells if "parameters" in c.metadata.get("tags", ()))
        settings.source += FEW
        whole.cells += book.cells
    resources = {"metadata": {"path": tmp_path}}
    NotebookClient(whole, timeout=300, kernel_name="python3", resources=resources).execute()
    shown = [o for c in whole.cells if c.cell_type == "code" for o in c.outputs if "data" in o]
    found = [o.data.get("text/html", "") for o in shown]
    tables = [html for html in found if "restoration_accuracy" in html]
    assert [html.count("<tr>") - 1 for html in tables] == [4, 4, 4, 3, 2]  # but for a line of heads
    assert "known_words[least=10]" in tables[3]
    assert "NaN" not in "".join(tables), "no cell failed"
    assert any("'report.html'" in o.data["text/plain"] for o in shown)
