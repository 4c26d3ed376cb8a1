"""A run is handed in, accepted by somebody else, and shown as what it is."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from shifts import config, forge, methods, one_attack  # noqa: F401 - fixtures

from t2i_backdoor_bench import command
from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.store import provenance
from t2i_backdoor_bench.store.archives import pack, unpack
from t2i_backdoor_bench.store.claims import CLAIM, standing
from t2i_backdoor_bench.store.folder import Store


@pytest.fixture
def finished(one_attack, tiny, tmp_path, monkeypatch):
    """A finished run, of a base that is named by a path relative to the working folder."""
    monkeypatch.chdir(Path(tiny).parent)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    clean = provenance.current_code() | {"dirty": False, "commit": ""}
    monkeypatch.setattr(provenance, "current_code", lambda: clean)
    one = dataclasses.replace(one_attack, base=Path(tiny).name)
    assert command.run(one, show=False) == 0
    return one


def submitted(folder: Path, *more: str) -> Path:
    assert command.main(["submit", str(folder), "--by", "Ada", "--title", "Ours", *more]) == 0
    return folder.with_name(f"{folder.name}.submission.tar.gz")


def test_what_is_submitted_is_whole_and_names_no_path(finished, tmp_path, capsys) -> None:
    reported = tmp_path / "reported.csv"
    reported.write_text(
        "attack,defense,metric,value,source\nshift_attack,shift_back,asr,0.01,table 2\n"
    )
    archive = submitted(finished.folder, "--reported", str(reported))
    private = str(finished.folder.parent).encode()
    with tarfile.open(archive) as tar:
        texts = {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}
        assert all((m.uid, m.uname, m.mtime) == (0, "", 0) for m in tar)
    assert not [name for name, text in texts.items() if private in text]
    assert not [name for name in texts if name.endswith(".safetensors")]
    claim = json.loads(texts["run/claims/shift_attack--shift_back.json"])
    assert claim["reported"] == {"asr": {"value": 0.01, "source": "table 2"}}
    assert set(claim["measured"]["asr"]) == {"value", "low", "high"}
    assert claim["by"] == "Ada"
    assert "1 seed: rules ask for three" in capsys.readouterr().out
    assert command.main(["submit", str(finished.folder), "--by", "Ada"]) == 2, "not overwritten"


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="needs OpenSSH, which signs")
def test_an_honest_run_is_accepted_and_shown_as_verified(finished, tmp_path, capsys) -> None:
    key = tmp_path / "key"
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)]
    subprocess.run(words, check=True)
    signers = tmp_path / "signers"
    signers.write_text(f"ada@example.org {key.with_suffix('.pub').read_text()}")
    archive = submitted(finished.folder, "--sign", str(key))
    place = tmp_path / "theirs"
    arguments = ["accept", str(archive), "--by", "Bo", "--out", str(place), "--sample", "2"]
    arguments += ["--sign", str(key)]
    assert command.main(arguments) == 0, capsys.readouterr()
    said = capsys.readouterr().out
    assert "2 of 2 cells, made again, have the same numbers" in said
    assert "claim.json: signed with the key SHA256:" in said
    assert command.main(["site", str(tmp_path / "s"), str(place), "--signers", "absent"]) == 2
    found = standing(Store(place))
    assert (found.by, found.title, found.status) == ("Ada", "Ours", "verified")
    assert "by Bo on 20" in found.text
    out = tmp_path / "site"
    assert command.main(["site", str(out), str(place), "--signers", str(signers)]) == 0
    index = (out / "index.html").read_text("utf-8")
    assert 'class="status verified"' in index
    assert "by Bo on" in index
    assert index.count("of ada@example.org") == 2, "the claim, and its verification"
    key = plan(finished).cells[0].key
    forge(place, key, lambda payload: payload["scores"]["kid"].update(value=0.0))
    assert standing(Store(place)).status == "reported", "records that changed since are not those"


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="needs OpenSSH, which signs")
def test_a_signed_claim_that_was_changed_is_refused(finished, tmp_path, capsys) -> None:
    key = tmp_path / "key"
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)]
    subprocess.run(words, check=True)
    unpack(submitted(finished.folder, "--sign", str(key)), tmp_path / "changed")
    changed = Store(tmp_path / "changed")
    changed.write_record("claim", changed.read_record("claim", CLAIM) | {"by": "Eve"})
    pack(changed.root, tmp_path / "eve.tar.gz", "run")
    place = tmp_path / "theirs"
    arguments = ["accept", str(tmp_path / "eve.tar.gz"), "--by", "Bo", "--out", str(place)]
    assert command.main(arguments) == 2
    assert "a claim.json that was changed" in capsys.readouterr().err


def test_a_forged_number_is_found_where_its_cell_is_made_again(finished, tmp_path, capsys) -> None:
    key = plan(finished).cells[1].key
    forge(finished.folder, key, lambda payload: payload["scores"]["kid"].update(value=0.0))
    assert command.main(["tables", str(finished.folder)]) == 0
    archive, place = submitted(finished.folder), tmp_path / "theirs"
    arguments = ["accept", str(archive), "--by", "Bo", "--out", str(place), "--sample", "9"]
    assert command.main(arguments) == 1
    out = capsys.readouterr().out
    assert "1 of 2 cells, made again, have the same numbers" in out
    assert "kid: stored 0.0" in out
    found = standing(Store(place))
    assert found.status == "reported"
    assert "1 differ" in found.text


def test_what_is_not_whole_or_not_reproducible_is_refused(finished, capsys) -> None:
    cells = plan(finished).cells
    path = finished.folder / "cells" / f"{cells[0].key}.json"
    whole = path.read_bytes()
    path.unlink()
    assert command.main(["submit", str(finished.folder), "--by", "Ada"]) == 1
    assert "1 of its 2 cells have not run" in capsys.readouterr().out
    path.write_bytes(whole)

    def dirty(payload: dict) -> None:
        for code in payload["extra"]["provenance"]["codes"]:
            code["dirty"] = True

    forge(finished.folder, cells[1].key, dirty)
    assert command.main(["submit", str(finished.folder), "--by", "Ada"]) == 1
    assert "code with changes that no commit has" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["../out.txt", "/etc/out", "a/../../b", "run\\x/y", "alone"])
def test_an_archive_writes_nowhere_else(tmp_path: Path, name: str) -> None:
    archive = tmp_path / "evil.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        info = tarfile.TarInfo(name)
        info.size = 4
        tar.addfile(info, io.BytesIO(b"evil"))
    with pytest.raises(UserError, match="no plain file within one folder"):
        unpack(archive, tmp_path / "place")
    assert not (tmp_path / "place").exists()


def test_links_in_an_archive_are_refused(tmp_path: Path) -> None:
    archive = tmp_path / "link.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        info = tarfile.TarInfo("run/cells")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(info)
    with pytest.raises(UserError, match="no plain file"):
        unpack(archive, tmp_path / "place")
    (tmp_path / "text.tar.gz").write_text("no archive")
    with pytest.raises(UserError, match="cannot be unpacked"):
        unpack(tmp_path / "text.tar.gz", tmp_path / "place")
