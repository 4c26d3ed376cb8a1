"""Signatures by SSH keys: what they show, and what they do not."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.store.claims import records_digest, standing
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.signatures import beside, check, check_key, sign

pytestmark = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="needs OpenSSH")


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> dict[str, Path]:
    """Two private keys by the name of who has them."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ada", "eve"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(words, check=True)
    return {name: folder / name for name in ("ada", "eve")}


def known(folder: Path, keys: dict[str, Path], *names: str) -> Path:
    """A list of the keys that are known."""
    path = folder / "signers"
    path.write_text("".join(f"{n} {keys[n].with_suffix('.pub').read_text()}" for n in names))
    return path


def test_a_signature_names_its_key_and_the_list_names_who_has_it(tmp_path, keys) -> None:
    file = tmp_path / "claim.json"
    file.write_text("{}")
    assert check(file) is None
    sign(file, keys["ada"])
    told = subprocess.run(["ssh-keygen", "-lf", keys["ada"]], capture_output=True, check=True)
    found = check(file, known(tmp_path, keys, "ada"))
    assert (found.valid, found.name) == (True, "ada")
    assert found.key in told.stdout.decode().split()
    assert "of ada" in found.text
    stranger = check(file, known(tmp_path, keys, "eve"))
    assert (stranger.valid, stranger.name) == (True, "")
    assert "in no list of known keys" in stranger.text
    sign(file, keys["eve"])  # once more, by another
    assert check(file, known(tmp_path, keys, "ada", "eve")).name == "eve"


def test_a_changed_file_or_a_signature_for_another_purpose_counts_for_nothing(
    tmp_path, keys
) -> None:
    file = tmp_path / "claim.json"
    file.write_text("{}")
    sign(file, keys["ada"])
    file.write_text("{ }")
    assert not check(file, known(tmp_path, keys, "ada")).valid
    beside(file).unlink()
    words = ["ssh-keygen", "-Y", "sign", "-q", "-f", str(keys["ada"]), "-n", "git", str(file)]
    subprocess.run(words, check=True)
    assert not check(file, known(tmp_path, keys, "ada")).valid
    beside(file).write_bytes(b"x" * 2**17)
    assert not check(file).valid


def test_what_is_no_key_or_no_list_is_one_clear_line(tmp_path, keys, monkeypatch) -> None:
    file = tmp_path / "claim.json"
    file.write_text("{}")
    with pytest.raises(UserError, match="there is no key"):
        check_key(tmp_path / "none")
    with pytest.raises(UserError, match="cannot sign"):
        sign(file, file)
    assert not beside(file).exists()
    sign(file, keys["ada"])
    with pytest.raises(UserError, match="no list of known keys"):
        check(file, tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "ssh-keygen is missing" in check(file).text
    with pytest.raises(UserError, match="install OpenSSH"):
        sign(file, keys["ada"])


def test_a_folder_says_whose_key_signed_it(tmp_path, keys) -> None:
    store = Store(tmp_path / "run")
    claim = {"title": "Ours", "by": "Ada", "records": records_digest(store)}
    store.write_record("claim", claim)
    assert standing(store).signed == ""
    sign(store.path("claim.json"), keys["ada"])
    assert "of ada" in standing(store, known(tmp_path, keys, "ada")).signed
    accepted = {"by": "Bo", "date": "2026-01-01", "records": claim["records"]}
    store.write_record("accepted", accepted | {"cells": ["a x b"], "agreed": 1, "of": 2})
    sign(store.path("accepted.json"), keys["eve"])
    found = standing(store, known(tmp_path, keys, "ada", "eve"))
    assert found.status == "verified"
    assert "of eve" in found.text


def test_a_verification_whose_signature_is_of_another_file_verifies_nothing(tmp_path, keys) -> None:
    store = Store(tmp_path / "run")
    digest = records_digest(store)
    accepted = {"by": "Bo", "date": "2026-01-01", "records": digest, "cells": ["a x b"]}
    store.write_record("accepted", accepted | {"agreed": 0, "of": 2})
    sign(store.path("accepted.json"), keys["eve"])
    store.write_record("accepted", accepted | {"agreed": 1, "of": 2})
    found = standing(store)
    assert found.status == "reported"
    assert "not of this file" in found.text
