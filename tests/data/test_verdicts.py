"""Each picture of a set is decoded once, and an unchanged file is not even read again."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from captioned_files import png, write_folder

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.data import verdicts
from t2i_backdoor_bench.data.image_files import Look
from t2i_backdoor_bench.data.open_captioned import open_data
from t2i_backdoor_bench.data.picture_places import Place
from t2i_backdoor_bench.data.verdicts import MISSING, Verdicts, from_plain
from t2i_backdoor_bench.models.catalog import Base
from t2i_backdoor_bench.models.sampler import Sampler
from t2i_backdoor_bench.running import choose_data as chosen
from t2i_backdoor_bench.running.settings import Config

BROKEN = [{"file_name": "bad.png", "text": "a broken one"}, {"file_name": "0.png", "text": ""}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = write_folder(tmp_path / "pictures", 6, BROKEN)
    (found / "bad.png").write_bytes(b"no picture")
    return found


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the pictures that are decoded."""
    found, look = [], verdicts.look
    monkeypatch.setattr(verdicts, "look", lambda data: found.append(len(data)) or look(data))
    return found


def opened(folder: Path, known: Verdicts | None = None):
    said: list[str] = []
    return open_data(str(folder), 32, lambda text: True, said.append, known), said


def test_a_second_opening_decodes_and_reads_nothing(folder, decoded, monkeypatch) -> None:
    first, said = opened(folder, known := Verdicts())
    assert len(decoded) == 7
    assert known.changed
    again = from_plain(json.loads(json.dumps(known.plain)))
    assert not again.changed
    monkeypatch.setattr(verdicts, "picture_bytes", lambda *args: pytest.fail("read again"))
    second, said_again = opened(folder, again)
    assert len(decoded) == 7
    assert (second.name, said_again) == (first.name, said)
    assert "1 no caption" in said[0]
    assert "1 broken picture (bad.png)" in said[0]
    assert not again.changed
    assert second.pairs("train", 1, 0)[0].shape == (1, 32, 32, 3), "pictures are read when asked"


def test_a_file_that_changed_is_looked_at_again(folder, decoded) -> None:
    first, _ = opened(folder, known := Verdicts())
    before = (folder / "3.png").stat()
    (folder / "3.png").write_bytes(png(77))
    os.utime(folder / "3.png", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    second, _ = opened(folder, known)
    assert len(decoded) == 8
    assert second.name != first.name
    assert second.name == opened(folder)[0].name, "as without what was known"
    os.utime(folder / "3.png", ns=(0, 5))
    opened(folder, known)
    assert len(decoded) == 15, "known by its content: it is read, and not decoded"


def test_a_file_that_is_gone_or_leads_out_of_the_folder_is_not_there(folder, tmp_path) -> None:
    known = Verdicts()
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(5))
    value = {"path": str(secret), "bytes": None}
    known.files[str(secret)] = (secret.stat().st_size, secret.stat().st_mtime_ns, "x")
    known.looks["x"] = Look()
    assert known.of(value, Place(folder.resolve()))[:2] == ("", MISSING)
    gone = {"path": str(folder / "none.png"), "bytes": None}
    assert known.of(gone, Place(folder.resolve()))[1] == MISSING


def test_a_run_keeps_what_it_found_in_its_folder(
    folder, tmp_path, decoded, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(chosen, "picture_side", lambda source: 32)
    monkeypatch.setattr(chosen, "reads", lambda source: lambda text: True)
    base = Base("x", "sd", Sampler(), 4, "")
    config = Config(data=str(folder), out=tmp_path / "run")
    first = chosen.choose_data(config, base)
    assert len(decoded) == 7
    assert chosen.choose_data(config, base).name == first.name
    assert len(decoded) == 7
    stored = json.loads((tmp_path / "run" / "pictures.json").read_text())
    stored["payload"]["looks"] = {"x": ["all is well"]}
    (tmp_path / "run" / "pictures.json").write_text(json.dumps(stored))
    assert chosen.choose_data(config, base).name == first.name
    assert len(decoded) == 14, "a damaged file counts as absent"
    with pytest.raises(UserError):
        chosen.choose_data(Config(data="./nothing", out=tmp_path / "run"), base)
