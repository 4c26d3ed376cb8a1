"""`push`: what goes to a hub or into a folder is whole, reads with the libraries own readers, and
has no path of this machine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pandas as pd
import pytest
import yaml
from fakes import SCALE, change, config, fakes, records, table  # noqa: F401 - fixtures
from safetensors.numpy import load_file, save_file

from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.running import push as pushing
from t2i_backdoor_bench.running.scales import SCALES
from t2i_backdoor_bench.store.folder import Store


class Hub:
    """Takes note of what it is given. `broken`: what it answers instead."""

    broken: Exception | None = None

    def __init__(self) -> None:
        self.repos, self.files = {}, {}

    def create_repo(self, repo_id, *, repo_type, private, exist_ok) -> None:
        if self.broken:
            raise self.broken
        self.repos[repo_id] = (repo_type, private, exist_ok)

    def upload_folder(self, *, repo_id, repo_type, folder_path, commit_message) -> None:
        assert self.repos[repo_id][0] == repo_type
        assert commit_message
        found = (p for p in folder_path.rglob("*") if p.is_file())
        self.files |= {str(p.relative_to(folder_path)): p.read_bytes() for p in found}


@pytest.fixture
def hub(monkeypatch) -> Hub:
    made = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return made


@pytest.fixture
def model(tmp_path) -> Path:
    """A model's folder as `export` writes it, with a path of this machine in two places."""
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: unknown\n---\n# of /home/me/base and more\n")
    (folder / "model_index.json").write_text('{"_name_or_path": "/home/me/base", "unet": ["a"]}')
    (folder / "unet" / "config.json").write_text('{"sizes": [1, 2], "from": ["/home/me/x/y"]}')
    (folder / "vocab.json").write_text('{"/a/b/c": 1}')
    save_file({"w": pd.Series([1.0, 2.0]).to_numpy()}, folder / "unet" / "model.safetensors")
    return folder


def test_a_model_goes_to_the_hub_without_paths_and_private(model, hub, capsys) -> None:
    assert runner.main(["push", str(model), "me/my-model"]) == 0
    assert "https://huggingface.co/me/my-model: the model of" in capsys.readouterr().out
    assert hub.repos == {"me/my-model": ("model", True, True)}
    assert set(hub.files) == {str(p.relative_to(model)) for p in model.rglob("*") if p.is_file()}
    assert b"/home/me" not in b"".join(hub.files.values())
    assert hub.files["README.md"].decode().endswith("# of base and more\n")
    assert json.loads(hub.files["model_index.json"]) == {"_name_or_path": "base", "unet": ["a"]}
    assert json.loads(hub.files["unet/config.json"]) == {"sizes": [1, 2], "from": ["y"]}
    assert hub.files["vocab.json"] == (model / "vocab.json").read_bytes(), "words are no paths"
    weights = (model / "unet" / "model.safetensors").read_bytes()
    assert hub.files["unet/model.safetensors"] == weights
    assert runner.main(["push", str(model), "me/other", "--public"]) == 0
    assert hub.repos["me/other"] == ("model", False, True)


def test_results_are_a_data_set_that_pandas_and_this_program_read(
    config, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.setitem(SCALES, "smoke", replace(SCALE, name="smoke"))
    broken = change(config, defenses="none,fake_defense,fake_screen", metrics="asr,kid")
    assert runner.run(broken) == 0
    before = {p: p.read_bytes() for p in config.folder.rglob("*") if p.is_file()}
    out = tmp_path / "out" / "results"
    assert runner.main(["push", str(config.folder), out.as_uri()]) == 0
    assert {p: p.read_bytes() for p in config.folder.rglob("*") if p.is_file()} == before
    frame = pd.read_parquet(out / "data" / "table.parquet")
    assert list(frame["defense"]) == [row["defense"] for row in table(config)]
    for row, stored in zip(frame.to_dict("records"), table(config), strict=True):
        assert f"{row['asr']:.6g}" == f"{float(stored['asr']):.6g}"
    assert len(pd.read_parquet(out / "data" / "rows.parquet")) == 3 * 2
    assert (out / "table.csv").read_text() == (config.folder / "table.csv").read_text()
    front = yaml.safe_load((out / "README.md").read_text().split("---")[1])
    files = [found["data_files"] for found in front["configs"]]
    assert all((out / name).is_file() for name in files)
    everything = b"".join(p.read_bytes() for p in out.rglob("*") if p.is_file())
    assert str(tmp_path).encode() not in everything
    assert not list(out.rglob("*.safetensors"))
    store = Store(out)
    assert {r.cell.key for r in store.all_results()} == {
        r.cell.key for r in records(broken).values()
    }
    assert runner.main(["tables", str(out)]) == 0


def test_a_path_that_numbers_depend_on_is_not_pushed(tmp_path) -> None:
    (tmp_path / "stage" / "cells").mkdir(parents=True)
    (tmp_path / "stage" / "cells" / "1.json").write_text('{"data": "/home/me/pictures,rows=3"}')
    (tmp_path / "stage" / "report.html").write_text("<a href='/x/y'>")
    assert list(pushing.leaks(tmp_path / "stage")) == ["cells/1.json: /home/me/pictures"]


def test_a_cell_is_exported_and_pushed(config, tmp_path, monkeypatch, model) -> None:
    asked = []

    def export(name: str, folder: Path, run: Path) -> int:
        asked.append((name, run))
        model.rename(folder)
        return 0

    monkeypatch.setattr(pushing, "export", export)
    out = tmp_path / "out"
    assert runner.main(["push", "a/b/0", str(out), "--out", str(config.folder)]) == 0
    assert asked == [("a/b/0", config.folder)]
    assert load_file(out / "unet" / "model.safetensors")["w"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("to", "says"),
    [
        ("me/too/many", "no repository such as OWNER/NAME"),
        ("me/über", "no repository such as OWNER/NAME"),
        ("", "no repository"),
        ("./full", "not empty"),
        ("file:///proc", "not empty"),
    ],
)
def test_a_bad_target_is_one_line(model, tmp_path, monkeypatch, to: str, says: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=says):
        pushing.push(str(model), to, tmp_path, False, None)


def test_what_is_no_model_and_no_run_is_refused(tmp_path, model) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "README.md").touch()
    with pytest.raises(UserError, match="neither a run folder"):
        pushing.kind_of(tmp_path / "other")
    (model / "link.safetensors").symlink_to(model / "README.md")
    with pytest.raises(UserError, match="plain file"):
        pushing.stage_model(model, tmp_path / "stage")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    with pytest.raises(UserError, match=r"no run\.json of this program"):
        pushing.push(str(tmp_path / "run"), str(tmp_path / "out"), tmp_path, False, None)


def test_without_a_network_it_ends_with_one_line(model, hub, monkeypatch, capsys) -> None:
    hub.broken = ConnectionError("cannot reach the hub\nat all")
    assert runner.main(["push", str(model), "me/my-model"]) == 2
    out = capsys.readouterr()
    assert out.err.count("\n") == 1
    assert "me/my-model was not reached or takes nothing (ConnectionError: cannot" in out.err
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert runner.main(["push", str(model), "me/my-model"]) == 2
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err
    assert not hub.files
