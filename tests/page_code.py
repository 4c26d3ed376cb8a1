"""The code of the pages on extending the suite, as modules."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = {
    "mirror": "add-a-defense.md",
    "kv_style": "add-an-attack.md",
    "sharpness": "add-a-metric.md",
    "frame": "add-a-target.md",
}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.S)


def install(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's file as a module of its own."""
    (code,) = blocks(PAGES[name], "python")
    import_code(f"page_{name}", code, folder, monkeypatch)


def import_code(name: str, code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Import code as the module of a name, from a file in `folder`."""
    (folder / f"{name}.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    sys.modules.pop(name, None)
    importlib.import_module(name)
