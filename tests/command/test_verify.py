"""`verify`: a stored cell is made again to see whether it is what its record says."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from methods import Back
from shifts import config, forge, methods, one_attack  # noqa: F401 - fixtures

from t2i_backdoor_bench import command
from t2i_backdoor_bench.report.publish import rebuild
from t2i_backdoor_bench.running.compare import leaves
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.store import provenance
from t2i_backdoor_bench.store.folder import Store

OTHER = {
    "commit": "b" * 40,
    "dirty": True,
    "source": "2",
    "versions": {"python": "3.11", "torch": "2.4.1"},
}


def verify(folder: Path, capsys) -> tuple[int, str]:
    capsys.readouterr()
    status = command.main(["verify", str(folder)])
    return status, capsys.readouterr().out


def test_a_run_verifies_and_forgeries_do_not(one_attack, capsys) -> None:
    one = dataclasses.replace(one_attack, defenses="shift_back")
    assert command.run(one) == 0
    before = {p: p.read_bytes() for p in one.folder.rglob("*") if p.is_file()}
    status, out = verify(one.folder, capsys)
    assert status == 0, out
    assert "made again, has the same 2 scores and " in out
    assert before == {p: p.read_bytes() for p in one.folder.rglob("*") if p.is_file()}, (
        "the folder stays as it is"
    )
    key = plan(one).cells[0].key

    def better(payload: dict) -> None:
        payload["scores"]["kid"]["value"] = 0.0

    forge(one.folder, key, better)
    status, out = verify(one.folder, capsys)
    assert status == 1
    assert "kid: stored 0.0" in out
    assert "table.csv is not what the records give" in out
    assert rebuild(one.folder) == 0
    status, out = verify(one.folder, capsys)
    assert status == 1
    assert "table.csv" not in out
    assert "kid: stored 0.0" in out
    assert "asr" not in out


def test_changed_images_and_tables_do_not_verify(one_attack, capsys) -> None:
    one = dataclasses.replace(one_attack, defenses="none")
    assert command.run(one) == 0
    path = one.folder / "samples" / f"{plan(one).cells[0].key}.safetensors"
    store = Store(one.folder)
    found, meta = store.read_arrays(f"samples/{path.stem}")
    arrays = {name: array.copy() for name, array in found.items()}
    arrays["triggered"][1] ^= 1
    store.write_arrays(f"samples/{path.stem}", arrays, meta)
    table = one.folder / "table.csv"
    table.write_text(table.read_text().replace("shift_attack", "shift_attack2"))
    (one.folder / "leaderboard.md").write_text("# Leaderboard\n\n1. mine\n")
    status, out = verify(one.folder, capsys)
    assert status == 1
    assert "images of triggered: 1 of 4 differ, by at most 1 of 255" in out
    assert "table.csv is not what the records give" in out
    assert "leaderboard.md is not what the records give" in out


def test_another_configuration_does_not_verify(one_attack, capsys, clean_registry) -> None:
    one = dataclasses.replace(
        one_attack, defenses="shift_back", overrides=("shift_back.shift=0.5",)
    )
    assert command.run(one) == 0
    assert verify(one.folder, capsys)[0] == 0, "options of the run are in run.json"
    clean_registry.defenses.entries.pop("shift_back")
    clean_registry.register_defense("shift_back", needs=("trigger",))(
        dataclasses.make_dataclass("Back", [("more", int, 3)], bases=(Back,))
    )
    status, out = verify(one.folder, capsys)
    assert status == 1
    assert "defense.0.options.more: stored nothing, now 3" in out


def test_a_cell_that_fails_now_does_not_verify(one_attack, capsys, monkeypatch) -> None:
    one = dataclasses.replace(one_attack, defenses="shift_back")
    assert command.run(one) == 0

    def broken(self, model, view, seed):
        raise RuntimeError("it broke")

    monkeypatch.setattr(Back, "apply", broken)
    status, out = verify(one.folder, capsys)
    assert status == 1
    assert "it fails now: RuntimeError: it broke" in out


def test_verify_says_what_may_be_why(one_attack, capsys, monkeypatch) -> None:
    one = dataclasses.replace(one_attack, defenses="none")
    with monkeypatch.context() as past:
        past.setattr(provenance, "current_code", lambda: OTHER)
        assert command.run(one) == 0
    forge(
        one.folder,
        plan(one).cells[0].key,
        lambda payload: payload["scores"]["asr"].update(value=0.123),
    )
    status, out = verify(one.folder, capsys)
    assert status == 1
    assert "made by other code (commit bbbbbbbbb; here " in out
    assert f"made with torch 2.4.1 (here {provenance.current_code()['versions']['torch']})" in out


def test_what_cannot_be_verified_is_one_line(tmp_path, capsys) -> None:
    assert command.main(["verify", str(tmp_path / "nowhere")]) == 2
    assert "no run folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert command.main(["verify", str(tmp_path / "empty")]) == 2
    assert "nothing to verify" in capsys.readouterr().err
    assert leaves({"a": [1, {"b": 2}], "c": {}}) == {"a.0": 1, "a.1.b": 2}
