"""The library: cheap to import, the same as the command, a DataFrame; and the example."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import bench
from bench import runner
from bench.types import UserError

ROOT = Path(__file__).resolve().parents[1]


def test_importing_the_package_is_cheap():
    code = "import sys, bench; heavy = {'torch', 'diffusers', 'pandas', 'matplotlib', 'yaml'} & set(sys.modules); print(sorted(heavy))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", bench.__all__)
def test_every_promised_name_is_there(name: str):
    assert getattr(bench, name) is not None
    assert name in dir(bench)


def test_a_wrong_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        bench.runn  # noqa: B018


def test_run_returns_the_table_that_it_writes(tiny, tmp_path, capsys):
    settings = {
        "attacks": "badt2i_pixel",
        "defenses": ["none", "noise_weights"],
        "base": tiny,
        "scale": "smoke",
        "n": 4,
        "metrics": "asr,kid",
    }
    settings |= {"set": {"badt2i_pixel.steps": 1, "badt2i_pixel.images": 4, "badt2i_pixel.batch": 4}, "out": tmp_path / "run", "workers": 1}
    table = bench.run(**settings)
    assert capsys.readouterr().out == "", "a notebook shows the table itself"
    assert isinstance(table, pd.DataFrame)
    assert table.defense.tolist() == ["none", "noise_weights"]
    assert table.status.tolist() == ["done", "done"]
    written = pd.read_csv(tmp_path / "run" / "table.csv")
    assert written.columns.tolist() == table.columns.tolist()
    assert written.kid.tolist() == pytest.approx(table.kid.tolist(), rel=1e-5)
    assert Path(table.attrs["report"]).is_file()
    pd.testing.assert_frame_equal(bench.read_table(tmp_path / "run"), table)
    # what the run wrote repeats it: nothing is left to do
    from bench.settings import make_config, read_yaml

    again = make_config(read_yaml(tmp_path / "run" / "run.yaml"))
    assert again.attacks == "badt2i_pixel"
    assert again.defenses == "none,noise_weights"
    before = (tmp_path / "run" / "table.csv").read_bytes()
    assert runner.run(again, show=False) == 0
    assert "2 of 2 cells are stored" in capsys.readouterr().err
    assert (tmp_path / "run" / "table.csv").read_bytes() == before


def test_a_wrong_setting_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="did you mean attacks"):
        bench.run(atacks="all")
    with pytest.raises(UserError, match="no run folder"):
        bench.read_table(tmp_path / "none")


def test_an_interrupted_run_raises(monkeypatch, tmp_path):
    monkeypatch.setattr(runner, "run", lambda *a, **k: 130)
    with pytest.raises(KeyboardInterrupt):
        bench.run(out=tmp_path)


def test_notebooks_are_watched(monkeypatch):
    from bench import progress

    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    assert not progress.live()
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert progress.live()


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_an_example_uses_names_that_exist(path: Path):
    """Two of the examples train for minutes. Here: they are Python, what they import is there, and so is an output that they name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = __import__(node.module, fromlist=[a.name for a in node.names])
            for alias in node.names:
                assert hasattr(module, alias.name), alias.name
    for name in re.findall(r"examples/(\w+\.txt)", ast.get_docstring(tree)):
        assert (path.parent / name).stat().st_size > 100, "what it printed"
