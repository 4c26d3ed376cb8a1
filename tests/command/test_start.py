"""Starting the command as users do, in a process of its own: installed, as a module, from a clone
that is not installed; and what it imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "t2i_backdoor_bench"
HEAVY = ("torch", "torchvision", "diffusers", "transformers", "open_clip", "torchmetrics")
IMPORTED = f"""
import sys
from {PACKAGE}.command import main
try:
    status = main(sys.argv[1:])
except SystemExit as stop:  # --help
    status = stop.code or 0
print("imported:", *sorted(set({HEAVY}) & set(sys.modules)), file=sys.stderr)
sys.exit(status)
"""


def start(*words: object, cwd: Path, **env: str) -> subprocess.CompletedProcess:
    """A process of this interpreter; it must end with status 0."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["list"], ["list", "metrics"], ["--list"]], ids=str
)
def test_help_and_lists_import_no_torch(arguments: list[str], tmp_path: Path):
    done = start("-c", IMPORTED, *arguments, cwd=tmp_path)
    assert done.stdout.strip()
    assert done.stderr.splitlines()[-1] == "imported:"


def test_what_does_import_torch_is_seen(tmp_path: Path):
    """Otherwise the test above would hold for any command."""
    done = start("-c", "import torch\n" + IMPORTED, "--version", cwd=tmp_path)
    assert "torch" in done.stderr.splitlines()[-1].split()


def test_the_package_is_a_command(tmp_path: Path):
    text = start("-m", PACKAGE, "--help", cwd=tmp_path).stdout
    for word in ("run ", "list [KIND]", "tables [FOLDER]", "verify FOLDER", "--tables-only"):
        assert word in text, word
    assert start(ROOT / "run_bench.py", "--help", cwd=tmp_path).stdout.count("--sweep") > 0


def test_a_clone_that_is_not_installed_works(tmp_path: Path):
    """Without `site`, .pth files are not read: an editable install is out of sight."""
    libraries = [p for p in sys.path if Path(p).name in ("site-packages", "dist-packages")]
    env = {"PYTHONPATH": os.pathsep.join(libraries)}
    code = f"import importlib.util; print(importlib.util.find_spec('{PACKAGE}'))"
    if start("-S", "-c", code, cwd=tmp_path, **env).stdout.strip() != "None":
        pytest.skip("the package is installed among the libraries, not in editable mode")
    listed = start("-S", ROOT / "run_bench.py", "list", cwd=tmp_path, **env).stdout
    assert listed == start("-m", PACKAGE, "list", cwd=tmp_path).stdout
    assert "skdcag" in listed
