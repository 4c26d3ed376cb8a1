"""Errors of cells, as records keep them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np


def portable(text: str) -> str:
    """A traceback without this machine's folders: records are published."""
    here = str(Path(__file__).resolve().parents[2]) + os.sep
    libraries = str(Path(np.__file__).resolve().parents[1]) + os.sep
    return text.replace(here, "").replace(libraries, "").replace(str(Path.home()) + os.sep, "~/")


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["unknown error"])[-1]
