"""A copy of a model's folder to tamper with, and what must refuse it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.loading import load_pipeline


@pytest.fixture
def folder(tiny_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_base, tmp_path / "model"))


def refused(folder: Path | str, *words: str) -> None:
    with pytest.raises(UserError) as error:
        load_pipeline(folder)
    text = str(error.value)
    assert "\n" not in text
    assert all(w in text for w in words), text


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
