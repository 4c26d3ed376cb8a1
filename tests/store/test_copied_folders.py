"""Run folders that were copied here or come from somebody else: complete, harmless, and records
that are none are noticed."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from shifts import config, forge, methods, one_attack  # noqa: F401 - fixtures

from t2i_backdoor_bench import command
from t2i_backdoor_bench.report.figures.blocks import Block
from t2i_backdoor_bench.report.figures.grid_drawing import draw
from t2i_backdoor_bench.report.publish import rebuild
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.store.folder import Store

ROOT = Path(__file__).resolve().parents[2]
BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        blocked = "torch diffusers transformers torchvision open_clip torchmetrics accelerate"
        if name.split(".")[0] in blocked.split():
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
import run_bench
sys.exit(run_bench.main(["--tables-only", "--out", sys.argv[1]]))
"""


@pytest.mark.figures
def test_a_copied_run_is_complete_and_its_tables_need_no_torch(one_attack, tmp_path) -> None:
    swept = dataclasses.replace(
        one_attack, sweeps=("shift_back.shift=0.25,0.5",), attention_maps=True
    )
    assert command.run(swept) == 0
    copy = shutil.copytree(swept.folder, tmp_path / "elsewhere" / "copy")
    made = [p for p in copy.iterdir() if p.is_file() and p.name not in ("run.json", "run.yaml")]
    assert {p.suffix for p in made} >= {".csv", ".md", ".tex", ".png"}
    assert {"grid.png", "attention-shift_attack.png", "sweep-shift_back.shift.png"} <= {
        p.name for p in made
    }
    for path in made:
        path.unlink()
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, str(copy)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {p.name: p.read_bytes() for p in made} == {
        p.name: (swept.folder / p.name).read_bytes() for p in made
    }


def test_names_in_a_run_folder_of_others_lead_nowhere_else(one_attack, tmp_path, capsys) -> None:
    command.run(dataclasses.replace(one_attack, attention_maps=True, defenses="none"))
    store = Store(one_attack.folder)
    manifest = store.read_record("run")
    for name in ("../../evil", "x/../../evil", "/tmp/evil", "\x1b[2J", "$(touch evil)"):
        manifest["cells"][0]["attack"] = name
        store.write_record("run", manifest)
        before = {p for p in tmp_path.rglob("*") if one_attack.folder not in p.parents}
        assert rebuild(one_attack.folder) == 0
        assert {p for p in tmp_path.rglob("*") if one_attack.folder not in p.parents} == before
        assert all(p.parent == one_attack.folder for p in one_attack.folder.rglob("attention*"))
        assert "\x1b" not in capsys.readouterr().out
    manifest["cells"][0]["key"] = "../../secret"
    store.write_record("run", manifest)
    assert command.main(["--tables-only", "--out", str(one_attack.folder)]) == 2
    assert "outside of it" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p["scores"]["asr"].update(value="0.0"),
        lambda p: p["scores"].update(asr=[1]),
        lambda p: p["cell"].pop("attack"),
        lambda p: p["cell"].update(defense={"a": 1}),
        lambda p: p.update(surprise=1),
        lambda p: p.update(scores=None),
    ],
)
def test_a_record_that_is_none_is_damaged_whatever_its_checksum_says(
    one_attack, change, capsys
) -> None:
    one = dataclasses.replace(one_attack, defenses="none")
    assert command.run(one) == 0
    before = [line.rsplit("|", 2)[0] for line in (one.folder / "table.md").read_text().splitlines()]
    forge(one.folder, plan(one).cells[0].key, change)
    capsys.readouterr()
    assert command.run(one) == 0
    assert "is not what this program writes" in capsys.readouterr().err
    assert [
        line.rsplit("|", 2)[0] for line in (one.folder / "table.md").read_text().splitlines()
    ] == before


@pytest.mark.parametrize(
    "change",
    [lambda m: m.pop("cells"), lambda m: m.update(cells=[1]), lambda m: m.update(needs=[])],
)
def test_a_manifest_that_is_none_leaves_the_records(one_attack, change, capsys) -> None:
    one = dataclasses.replace(one_attack, defenses="none")
    assert command.run(one) == 0
    store = Store(one.folder)
    manifest = store.read_record("run")
    change(manifest)
    store.write_record("run", manifest)
    assert rebuild(one.folder) == 0
    assert f"{one.folder / 'run.json'} is damaged" in capsys.readouterr().err


def test_texts_that_no_file_could_hold_are_stored_as_codes(tmp_path) -> None:
    store = Store(tmp_path)
    store.write_record("a", {"caption": "half \ud800 of a pair", "whole": "\U0001f525"})
    assert store.read_record("a") == {"caption": "half \\ud800 of a pair", "whole": "\U0001f525"}


def test_captions_of_any_kind_are_drawn(tmp_path) -> None:
    tiles = {"attacked": np.zeros((3, 8, 8, 3), np.uint8)}
    prompts = ["two\nlines", "\x1b[2J", "\u202eturned \U0001f525 $x$ "]
    image = draw(["attacked"], [Block("a\nb", prompts, tiles)])
    assert image.size[0] > 100
