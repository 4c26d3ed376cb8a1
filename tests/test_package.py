"""The wheel: one top-level package with all its files, which runs from any folder."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from sources import METHODS, ROOT

PACKAGE = "t2i_backdoor_bench"
PARTS = ("bench", *METHODS)
SMOKE = (
    *("--attacks", "badt2i_pixel", "--defenses", "none", "--scale", "smoke", "--n", "2"),
    *("--metrics", "asr,prompt_fidelity", "--device", "cpu"),
    *("--set", "badt2i_pixel.steps=2", "--set", "badt2i_pixel.images=8"),
)


def run(*command: object, cwd: Path | None = None) -> str:
    """What a command prints, without the paths that pytest or the user added."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    env |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the repository, built from a copy: a build leaves files in its folder."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for part in PARTS:
        shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", out, source)
    (found,) = out.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment with the wheel.

    Its libraries are those of the environment of the tests. A folder that a .pth file names is
    searched, but the .pth files in it are not read: the editable install stays out of sight.
    """
    folder = tmp_path_factory.mktemp("environment") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    interpreter = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", interpreter)
    run(*pip, "install", "--no-deps", "--no-index", wheel)
    site = run(interpreter, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    libraries = [p for p in sys.path if Path(p).name in ("site-packages", "dist-packages")]
    (Path(site) / "libraries.pth").write_text("\n".join(libraries))
    return interpreter


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder with modules of the names that the repository's folders have."""
    text = "raise ImportError('a module of the current folder was imported')\n"
    (tmp_path / "metrics.py").write_text(text)
    for name in ("attacks", "bench"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(text)
    return tmp_path


def test_every_package_folder_is_listed() -> None:
    """setuptools leaves out a package that pyproject.toml does not list."""
    folders = {p.parent.relative_to(ROOT) for part in PARTS for p in (ROOT / part).rglob("*.py")}
    names = {".".join([PACKAGE, *f.parts[f.parts[0] == "bench" :]]) for f in folders}
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(names)
    assert [str(f) for f in folders if not (ROOT / f / "__init__.py").is_file()] == []


def test_the_wheel_is_one_package_with_every_file(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    (info,) = {n.split("/")[0] for n in names if ".dist-info/" in n}
    assert {n.split("/")[0] for n in names} == {PACKAGE, info}
    files = {p.relative_to(ROOT) for part in PARTS for p in (ROOT / part).rglob("*") if p.is_file()}
    wanted = {
        "/".join([PACKAGE, *f.parts[f.parts[0] == "bench" :]])
        for f in files
        if "__pycache__" not in f.parts
    }
    assert f"{PACKAGE}/shapes/base/unet/diffusion_pytorch_model.safetensors" in wanted
    assert f"{PACKAGE}/contract/references.bib" in wanted
    assert wanted - names == set()
    scripts = zipfile.ZipFile(wheel).read(f"{info}/entry_points.txt").decode()
    assert f"t2i-backdoor-bench = {PACKAGE}.command:main" in scripts


def test_the_installed_package_is_the_one_that_runs(python: Path, elsewhere: Path) -> None:
    where = run(python, "-c", f"import {PACKAGE}; print({PACKAGE}.__file__)", cwd=elsewhere)
    assert Path(where.strip()).is_relative_to(python.parents[1])


def test_a_smoke_cell_is_measured_from_any_folder(python: Path, elsewhere: Path) -> None:
    run(python.parent / "t2i-backdoor-bench", *SMOKE, "--out", "results", cwd=elsewhere)
    (row,) = csv.DictReader((elsewhere / "results" / "table.csv").read_text().splitlines())
    assert (row["attack"], row["defense"], row["status"]) == ("badt2i_pixel", "none", "done")
    assert 0 <= float(row["asr"]) <= 1
    assert 0 <= float(row["prompt_fidelity"]) <= 1


def test_the_installed_command_lists_the_methods(python: Path, elsewhere: Path) -> None:
    text = run(python, "-m", PACKAGE, "list", cwd=elsewhere)
    for name in ("badt2i_pixel", "skdcag", "asr"):
        assert name in text.replace(",", " ").split(), text
