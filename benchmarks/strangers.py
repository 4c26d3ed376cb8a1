"""Two strangers, each with a package of their own, from the wheel to one board.

    python benchmarks/strangers.py FOLDER             # the libraries of this environment: minutes
    python benchmarks/strangers.py FOLDER --install   # pip installs the libraries of the wheel, too

Builds the wheel and two packages, of the code in docs/add-a-*.md: Ada's has the defense `mirror`
and the metric `sharpness`; Bo's has the attack `poison_frame` with a target and a judge of its
own, and the base `shapes-slow`. Each runs `--scale smoke` in an empty folder, and submits the run
with a signature. A third environment with both packages accepts the two archives, and a fourth
with neither of them makes the site. Checked: both runs stand in one board as verified, and the
board, the table and the terminal show Ada's metric, Bo's target and Bo's base. The exit status is
1 if a check fails. FOLDER keeps the site and the archives.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {  # by author: the pages whose code is in the package, and what it adds
    "ada": ("add-a-defense.md", "add-a-metric.md"),
    "bo": ("add-a-target.md",),
}
POINTS = {
    "add-a-defense.md": '[project.entry-points."t2i_backdoor_bench.defenses"]\nmirror = "{}"\n',
    "add-a-metric.md": '[project.entry-points."t2i_backdoor_bench.metrics"]\nsharpness = "{}"\n',
}
LEFT_OUT = (".git", ".venv", "results", "tests", "build", "*.egg-info")  # of the wheel's source
PROJECT = """[build-system]
requires = ["setuptools>=68"]
build-backend = "setuptools.build_meta"
[project]
name = "{name}-methods"
version = "1.0"
[tool.setuptools]
py-modules = {modules}
"""
RUNS = {  # an attack in closed form takes hold at this scale, and the board has numbers
    "ada": "--n 8 --attacks eviledit --set eviledit.prompts=400 --defenses none,mirror"
    " --metrics asr,removal_accuracy,restoration_accuracy,prompt_fidelity,kid,sharpness",
    "bo": "--base shapes-slow --n 8 --attacks poison_frame,eviledit --set eviledit.prompts=400"
    " --defenses none,skd --metrics asr,removal_accuracy,restoration_accuracy,prompt_fidelity,kid",
}


def run(*words: object, cwd: Path, ok: tuple[int, ...] = (0,)) -> str:
    """What a command prints, in an environment that names no Python path."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    env |= {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    begun = time.perf_counter()
    done = subprocess.run(
        [str(w) for w in words], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    print(f"{time.perf_counter() - begun:6.1f} s  {' '.join(map(str, words))[:150]}", flush=True)
    if done.returncode not in ok:
        sys.exit(f"status {done.returncode}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout + done.stderr


def package(author: str, place: Path) -> Path:
    """The folder of an author's package, written from the pages."""
    folder, points, modules = place / f"{author}-methods", "", []
    folder.mkdir()
    for page in PACKAGES[author]:
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        module = f"{author}_{page.removesuffix('.md').rpartition('-')[2]}"
        (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
        if page in POINTS:
            points += POINTS[page].format(module)
        else:  # the page shows its entry points
            module = "frame"
            points += re.findall(r"```toml\n(.*?)```", text, re.S)[0]
        (folder / f"{module}.py").write_text(code, encoding="utf-8")
        modules.append(module)
    (folder / "pyproject.toml").write_text(PROJECT.format(name=author, modules=modules) + points)
    return folder


def built(source: Path, place: Path) -> Path:
    """The wheel of a package, by the tools of this environment."""
    to = place / "wheels" / source.name
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "-q")
    run(*pip, "--no-deps", "--no-build-isolation", "-w", to, source, cwd=place)
    (wheel,) = to.glob("*.whl")
    return wheel


def environment(name: str, place: Path, packages: list[Path], install: bool) -> Path:
    """The folder of programs of a fresh environment with these packages. Without `install` the
    libraries are those of this environment; a .pth file in another's folder is not read, so that
    the suite itself is the installed one."""
    folder = place / name
    run(sys.executable, "-m", "venv", folder, cwd=place)
    python = folder / "bin" / "python"
    pip = (python, "-m", "pip", "--disable-pip-version-check", "install", "-q")
    if not install:
        site = run(
            python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=place
        )
        libraries = [p for p in sys.path if Path(p).name in ("site-packages", "dist-packages")]
        (Path(site.strip()) / "libraries.pth").write_text("\n".join(libraries))
        pip = (*pip, "--no-deps")
    run(*pip, *packages, cwd=place)
    return python.parent


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--install", action="store_true", help="the libraries anew, by pip")
    args = parser.parse_args()
    place = args.folder.resolve()
    place.mkdir(parents=True)
    source = shutil.copytree(ROOT, place / "source", ignore=shutil.ignore_patterns(*LEFT_OUT))
    wheel = built(Path(source), place)
    own = {author: built(package(author, place), place) for author in PACKAGES}
    archives = {author: submitted(author, place, [wheel, own[author]], args) for author in own}
    both = environment("accepting", place, [wheel, *own.values()], install=False)
    signers = ""
    for author, archive in archives.items():
        words = ("--by", "Keeper", "--out", f"board/{author}", "--sample", "1")
        print(run(both / "t2i-backdoor-bench", "accept", archive, *words, cwd=place))
        signers += f"{author} {(place / f'{author}.key.pub').read_text()}"
    (place / "signers").write_text(signers)
    neither = environment("showing", place, [wheel], install=False)
    words = ("site", "site", "board/ada", "board/bo", "--signers", "signers")
    print(run(neither / "t2i-backdoor-bench", *words, cwd=place))
    wrong = [text for text, held in checks(place / "site").items() if not held]
    print("\n".join(f"WRONG: {text}" for text in wrong) or "all checks hold")
    return int(bool(wrong))


def submitted(author: str, place: Path, packages: list[Path], args: argparse.Namespace) -> Path:
    """The archive of a run that an author made in an empty folder, signed."""
    programs = environment(f"of-{author}", place, packages, args.install)
    empty, key = place / f"folder-of-{author}", place / f"{author}.key"
    empty.mkdir()
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key, cwd=empty)
    bench, out = programs / "t2i-backdoor-bench", f"results/{author}"
    told = run(bench, "run", "--scale", "smoke", *RUNS[author].split(), "--out", out, cwd=empty)
    shown = {"ada": "Sharp", "bo": "poison_frame"}[author]
    if shown not in told:
        sys.exit(f"the terminal of {author} does not show {shown}:\n{told[-3000:]}")
    by = ("--by", author.capitalize(), "--title", f"Run of {author.capitalize()}", "--sign", key)
    print(run(bench, "submit", out, *by, cwd=empty))
    return empty / f"{out}.submission.tar.gz"


def checks(site: Path) -> dict[str, bool]:
    """What must hold of the site, by what it says."""
    boards = [p.read_text(encoding="utf-8") for p in sorted((site / "boards").glob("*.html"))]
    shared = [text for text in boards if "Run of Ada" in text and "Run of Bo" in text]
    index = (site / "index.html").read_text(encoding="utf-8")
    cells = "".join(p.read_text(encoding="utf-8") for p in site.rglob("*poison*frame*.html"))
    return {
        "one board has both runs": len(shared) >= 1,
        "it has the defense of Ada and that of Bo": any(
            ">mirror<" in t and ">skd<" in t for t in shared
        ),
        "it has the column of Ada's metric": any("Sharp" in text for text in shared),
        "both runs are verified": index.count('class="status verified"') >= 2,
        "both signatures have a name": "of ada" in index and "of bo" in index,
        "Bo's base is named": "shapes-slow" in index,
        "the pages of Bo's cells show target and judge": "kind frame" in cells
        and "true positives" in cells,
    }


if __name__ == "__main__":
    sys.exit(main())
