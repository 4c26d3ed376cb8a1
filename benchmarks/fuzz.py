#!/usr/bin/env python
"""Mutates the files that a stranger may hand in, and opens them as the command does.

    python benchmarks/fuzz.py --mutations 20000 --seed 0

The JSON of a small run folder (half of them with checksums that are made to fit), the JSON and the
safetensors headers of a small model folder, settings as YAML, and a table of captions as CSV. What
may come of it: the same result, or one line and exit status 1 or 2. A run folder may also end with
status 0 and a line that names what is left out, or, where the checksum was made to fit, with other
numbers: a checksum shows damage, not who wrote it. A traceback, a write outside of the folder, a
question to the network or another process is a fault, and is printed with its file.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "report")]

from mutations import mutate_header, mutate_json, mutate_text  # noqa: E402

from t2i_backdoor_bench import command  # noqa: E402
from t2i_backdoor_bench.contract import UserError  # noqa: E402
from t2i_backdoor_bench.contract.hashing import digest  # noqa: E402
from t2i_backdoor_bench.models.configs import check_names  # noqa: E402
from t2i_backdoor_bench.models.embedded import BASE, SCORER  # noqa: E402
from t2i_backdoor_bench.models.trust import check_model, read_json  # noqa: E402
from t2i_backdoor_bench.running.checks import feature_dimension  # noqa: E402
from t2i_backdoor_bench.scoring.scorer_folder import check_settings  # noqa: E402

WRITES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate")
OUTSIDE = (
    *("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec"),
    *("os.fork", "os.forkpty", "os.posix_spawn", "os.spawn"),  # no process: none outlives the run
)


LEFT_OUT = ("damaged", "has not run yet", "was measured by protocol")
WHOLE: dict[Path, tuple[bytes, ...]] = {}  # the tables of a whole run folder


class Escaped(BaseException):
    """Something was touched that lies elsewhere."""


class Changed(Exception):
    """Another result, and not a word about it."""


def guard(inside: Path) -> None:
    """From now on, a write that is not in `inside`, a question to the network and another program
    raise Escaped."""

    def watch(event: str, args: tuple) -> None:
        if not inside.exists():  # all is over
            return
        if event in OUTSIDE:
            raise Escaped(f"{event} {args!r}"[:300])
        flags = args[2] if event == "open" and isinstance(args[2], int) else 0
        if event in WRITES or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            path = args[0] if isinstance(args[0], (str, bytes, os.PathLike)) else ""
            if event in ("os.remove", "os.rmdir") and args[1] != -1:  # relative to an open folder
                path = ""
            real = os.path.abspath(os.fsdecode(path)) if path else ""
            if real and not real.startswith((str(inside), "/dev/")):
                raise Escaped(f"{event} {real}")

    sys.addaudithook(watch)


# ------------------------------------------------------------------------------- what is opened
def of_run(folder: Path, path: Path) -> int:
    """The tables of a run folder. Raises Changed where their numbers are others, the damage was
    left to be seen, and nothing is said about it."""
    status = command.main(["--tables-only", "--out", str(folder)])
    said = sys.stdout.getvalue() + sys.stderr.getvalue()  # type: ignore[attr-defined]
    tables = tuple((folder / name).read_bytes() for name in ("table.csv", "rows.csv"))
    whole = WHOLE.setdefault(folder, tables)
    if status == 0 and tables != whole and not fits(path) and not any(w in said for w in LEFT_OUT):
        raise Changed(f"other tables, and nothing is said: {said[-300:]}")
    return status


def fits(path: Path) -> bool:
    """Whether a file is a record with a checksum of its content."""
    try:
        value = json.loads(path.read_bytes())
        return value["sha256"] == digest(value["payload"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def of_model(folder: Path, path: Path) -> int:
    check_model(folder)
    return 0


def of_scorer(folder: Path, path: Path) -> int:
    feature_dimension(str(folder))
    settings = read_json(path)
    check_names(settings, path)
    check_settings(settings, path)
    return 0


def of_settings(folder: Path, path: Path) -> int:
    return command.main(["--config", str(path), "--tables-only", "--out", str(folder / "run")])


def of_data(folder: Path, path: Path) -> int:
    from t2i_backdoor_bench.data.open_captioned import open_data

    open_data(str(folder), 16, lambda text: True, lambda text: None)
    return 0


def make_run(folder: Path) -> None:
    from report_pages import make_run as made

    made(folder)


def make_model(folder: Path) -> None:
    shutil.copytree(BASE, folder)


def make_scorer(folder: Path) -> None:
    folder.mkdir()
    shutil.copy(SCORER / "open_clip_config.json", folder)


def make_settings(folder: Path) -> None:
    make_run(folder / "run")
    shutil.copy(ROOT / "results" / "protocol-2-check" / "run.yaml", folder)


def make_data(folder: Path) -> None:
    from PIL import Image

    folder.mkdir()
    lines = ["file_name,text"]
    for i in range(6):
        Image.new("RGB", (8, 8), (i, 2 * i, 3)).save(folder / f"{i}.png")
        lines.append(f'{i}.png,"a thing, number {i}"')
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")


Kind = tuple[Callable, Callable, Callable, str, float]
KINDS: dict[str, Kind] = {  # made by, opened by, changed by, which files, share of all
    "model JSON": (make_model, of_model, mutate_json, "*/*config.json", 0.4),
    "model index": (make_model, of_model, mutate_json, "model_index.json", 0.15),
    "model header": (make_model, of_model, mutate_header, "vae/*.safetensors", 0.1),
    "scorer": (make_scorer, of_scorer, mutate_json, "*.json", 0.1),
    "settings": (make_settings, of_settings, mutate_text, "*.yaml", 0.17),
    "captions": (make_data, of_data, mutate_text, "*.csv", 0.02),
    "run folder": (make_run, of_run, mutate_json, "**/*.json", 0.06),
}


def try_one(opened: Callable, folder: Path, path: Path) -> tuple[str, str]:
    """What came of it: "0", "1", "2" or "fault", and what was said."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status = str(opened(folder, path))
        except UserError as error:
            status = "2" if "\n" not in str(error) else "fault"
        except (Exception, Escaped, SystemExit) as error:
            return "fault", f"{type(error).__name__}: {error}"
    said = err.getvalue()
    if "Traceback" in said or (status == "2" and said.strip().count("\n") > 3):
        return "fault", said[-500:]
    return status, said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    import datasets

    from t2i_backdoor_bench.report.figures import attention_maps, plots

    plots.write_figures = lambda store, records: []  # seconds each; tests draw them
    attention_maps.write_pictures = lambda store, records: []
    rng, begun, faults, results = random.Random(args.seed), time.time(), 0, Counter()
    with tempfile.TemporaryDirectory(prefix="fuzz") as place:
        tempfile.tempdir = place
        datasets.config.HF_DATASETS_CACHE = Path(place) / "cache"
        for name, (make, opened, _, _, _) in KINDS.items():
            make(Path(place) / name)
            try_one(opened, Path(place) / name, next((Path(place) / name).rglob("*.*")))
        guard(Path(place))
        for name, (_, opened, change, pattern, share) in KINDS.items():
            folder = Path(place) / name
            files = sorted(p for p in folder.glob(pattern) if p.is_file())
            for _ in range(round(args.mutations * share)):
                path = rng.choice(files)
                whole = path.read_bytes()
                change(path, rng)
                status, said = try_one(opened, folder, path)
                results[name, status] += 1
                if status == "fault":
                    faults += 1
                    print(f"FAULT {name} {path.name}: {said}\n  {path.read_bytes()[:300]!r}")
                path.write_bytes(whole)
        for (name, status), many in sorted(results.items()):
            print(f"{name}: {many} ended with {status}")
        total = sum(results.values())
        print(f"{total} mutations, seed {args.seed}, {faults} faults, {time.time() - begun:.0f} s")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
