"""Tables, plots and the report are made where the libraries of models are not installed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from t2i_backdoor_bench.store.packed import PACKED, read_packed, write_packed

ROOT = Path(__file__).resolve().parents[2]
BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
"""
MODELS = (
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "open_clip",
    "torchmetrics",
    "accelerate",
)
ROOMS = ("contract", "report", "stats", "store")


def run(code: str, blocked: tuple[str, ...], *words: str) -> str:
    command = [sys.executable, "-c", BLOCK.replace("BLOCKED", repr(blocked)) + code, *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_a_run_folder_is_published_without_models(tmp_path: Path) -> None:
    records, folder = read_packed(ROOT / "results" / "reference" / PACKED), tmp_path / "run"
    folder.mkdir()
    write_packed(folder / PACKED, dict(list(records.items())[:6]))
    code = (
        "from pathlib import Path\n"
        "from t2i_backdoor_bench.report.publish import rebuild\n"
        "sys.exit(rebuild(Path(sys.argv[1])))"
    )
    out = run(code, MODELS, str(folder))
    assert "6 of 6 cells done" in out
    names = ("table.csv", "rows.csv", "table.md", "table.tex", "report.html")
    assert all((folder / name).is_file() for name in names)


def test_swept_options_are_read_without_scipy_and_matplotlib() -> None:
    code = "import t2i_backdoor_bench.running.sweep, t2i_backdoor_bench.running.settings"
    run(code, ("matplotlib", "scipy.stats"))


def test_the_room_imports_contract_stats_and_store_alone() -> None:
    for path in sorted((ROOT / "bench" / "report").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [a.name for a in node.names] if isinstance(node, ast.Import) else []
            own = [name for name in names if name and name.startswith("t2i_backdoor_bench.")]
            assert all(name.split(".")[1] in ROOMS for name in own), (path, own)
