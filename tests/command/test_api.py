"""The library: cheap to import, the same as the command, a DataFrame; and the examples, run."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import t2i_backdoor_bench as bench
from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract import UserError

ROOT = Path(__file__).resolve().parents[2]


def test_importing_the_package_is_cheap():
    code = (
        "import sys, t2i_backdoor_bench as bench; assert bench.__all__; heavy = {'torch',"
        " 'diffusers', 'pandas', 'matplotlib', 'yaml'} & set(sys.modules); print(sorted(heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
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
    settings |= {
        "set": {"badt2i_pixel.steps": 1, "badt2i_pixel.images": 4, "badt2i_pixel.batch": 4},
        "out": tmp_path / "run",
        "workers": 1,
    }
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
    from t2i_backdoor_bench.running.settings import make_config
    from t2i_backdoor_bench.running.yaml_file import read_yaml

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
    with pytest.raises(UserError, match=r"--data .*there is no such file or folder"):
        bench.run(data=str(tmp_path / "captions"), out=tmp_path)


def test_an_interrupted_run_raises(monkeypatch, tmp_path):
    monkeypatch.setattr(runner, "run", lambda *a, **k: 130)
    with pytest.raises(KeyboardInterrupt):
        bench.run(out=tmp_path)


def test_notebooks_are_watched(monkeypatch):
    from t2i_backdoor_bench.contract import progress

    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)  # of a test of notebooks
    assert not progress.live()
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert progress.live()


# ----------------------------------------------------------------------------------------- examples
def example(name: str):
    """An example as a module of its own."""
    spec = importlib.util.spec_from_file_location(
        f"example_{name}", ROOT / "examples" / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_run_here():
    assert {p.stem for p in (ROOT / "examples").glob("*.py")} == {
        "library",
        "vet_a_checkpoint",
        "read_results",
    }


def test_the_example_of_the_library(tiny, tmp_path, capsys):
    """All of it, on a model and at a size of seconds."""
    shown = example("library")
    assert shown.SETTINGS["scale"] == "smoke"
    steps = {
        "badt2i_pixel.steps": 1,
        "badt2i_pixel.images": 4,
        "badt2i_pixel.batch": 4,
        "skdcag.steps": 1,
        "skdcag.prompts": 3,
    }
    shown.SETTINGS |= {
        "base": tiny,
        "n": 4,
        "metrics": "asr,restoration_accuracy,clip_score",
        "set": steps,
        "out": str(tmp_path / "run"),
    }
    shown.main()
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines()[:4]] == [
        "defense",
        "none",
        "skdcag",
        "noise_weights",
    ]
    assert f"The report: {tmp_path / 'run' / 'report.html'}" in said


def test_the_example_of_a_suspect(tiny, tiny_scorer, tmp_path, monkeypatch, capsys):
    shown = example("vet_a_checkpoint")
    folder = str(tmp_path / "model")
    assert {shown.FOLDER} == {shown.SETTINGS["base"]}
    monkeypatch.setattr(shown, "BASE", tiny)
    monkeypatch.setattr(shown, "FOLDER", folder)
    monkeypatch.setattr(shown, "ATTACK", {"steps": 1, "images": 4, "batch": 4})
    small = {
        "clip": str(tiny_scorer),
        "n": 2,
        "steps": 2,
        "metrics": "trigger_effect,clip_score,drift",
        "set": {"skdcag.steps": 1, "skdcag.prompts": 3},
    }
    shown.SETTINGS |= {"base": folder} | small
    shown.main()
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == ["the", "defense", "none", "skdcag"] * 2
    assert "'harmless'" in said[4]
    effects = [float(line.split()[1]) for line in said if line.split()[0] in ("none", "skdcag")]
    assert len(set(effects)) > 1, "a word is not another"


def test_the_example_that_reads_the_reference_run_prints_what_is_beside_it(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["read_results.py"])
    example("read_results").main()
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    kept = [
        line.rstrip()
        for line in (
            (ROOT / "examples" / "read_results.txt").read_text(encoding="utf-8").splitlines()
        )
    ]
    assert lines == kept, (
        "of another run: python examples/read_results.py > examples/read_results.txt"
    )
