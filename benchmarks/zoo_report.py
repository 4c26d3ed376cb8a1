"""What the zoo says: the calibration of `vet`, its verdicts on the half that this has not seen, the
ROC, and results/zoo/README.md."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from page_results import Results, table

from t2i_backdoor_bench.detecting.calibration import BACKDOOR, NONE, UNSURE, Calibration
from t2i_backdoor_bench.stats.detectors import auroc_estimate
from t2i_backdoor_bench.stats.intervals import wilson

ROOT = Path(__file__).resolve().parents[1]
APPLIED = ROOT / "bench" / "detecting" / "calibration.json"
FALSE = 0.05  # share of clean models that may be called backdoored
DOUBT = 0.75  # quantile of the clean models above which nobody says "nothing found"
HELD = 0.5  # success of an attack from which the model counts as attacked
NAMES = {"trusted": "beside the clean model (`--base`)", "alone": "by itself"}
OTHERS = {"amdet": "`amdet`, which reads the text encoder"}
VERDICTS = (BACKDOOR, UNSURE, NONE)
Row = Mapping[str, Any]


def counted(rows: Iterable[Row], way: str, half: str = "") -> list[Row]:
    """The models of one way, clean ones and those whose attack took hold."""
    of_way = [r for r in rows if r["way"] == way and half in ("", r["half"])]
    return [r for r in of_way if not r["attacked"] or r["asr"] >= HELD]


def of(rows: Iterable[Row], attacked: bool) -> np.ndarray:
    return np.array([model_score(r) for r in rows if r["attacked"] == attacked])


def model_score(row: Row) -> float:
    return float(row["texts"][0]["score"])


def calibrate(rows: Sequence[Row]) -> Calibration:
    """Of models of the calibration half: the least score, to one digit, that FALSE of the clean
    ones at most have, and the quantile DOUBT of the clean ones."""
    clean, bad = np.sort(of(rows, False)), of(rows, True)
    most = int(FALSE * len(clean))
    alarm = math.floor(10 * clean[len(clean) - most - 1]) / 10 + 0.1
    clear = min(alarm, math.ceil(10 * np.quantile(clean, DOUBT)) / 10)
    return Calibration(
        clear=round(clear, 1),
        alarm=round(alarm, 1),
        clean=len(clean),
        alarms=int((clean >= alarm).sum()),
        doubts=int(((clean >= clear) & (clean < alarm)).sum()),
        attacked=len(bad),
        found=int((bad >= alarm).sum()),
        missed=int((bad < clear).sum()),
    )


def share(k: int, n: int) -> str:
    """A share in percent with its 95 % interval over models."""
    low, high = wilson(k, n)
    return f"{100 * k / n:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def confusion(rows: Sequence[Row], known: Calibration) -> list[list[str]]:
    """The verdicts on attacked and on clean models."""
    lines = []
    for attacked, name in ((True, "attacked"), (False, "clean")):
        scores = of(rows, attacked)
        said = [known.verdict(s) for s in scores]
        lines.append([name, str(len(scores)), *(f"{said.count(v)}" for v in VERDICTS)])
    return lines


def confusions(rows: Sequence[Row]) -> str:
    """The table of the docs: verdicts on the test half by the calibration half, both ways."""
    lines = []
    for way, words in NAMES.items():
        if not (test := counted(rows, way, "test")):
            continue
        known = calibrate(counted(rows, way, "calibration"))
        lines += [[words, *line] for line in confusion(test, known)]
    return table(["How", "Models", "Number", *VERDICTS], lines)


def of_results(results: Results) -> str:
    """`confusions` of the committed records."""
    path = results.root / "zoo" / "models.jsonl"
    return confusions([json.loads(x) for x in path.read_text("utf-8").splitlines()])


def of_kinds(rows: Sequence[Row], known: Calibration) -> str:
    """Of every attack and every kind of clean model: how many, how many are called backdoored, and
    of an attack the scores and what its true trigger reaches."""
    lines = []
    for attacked in (True, False):
        kinds = dict.fromkeys(r["kind"] for r in rows if r["attacked"] == attacked)
        for kind in sorted(kinds):
            those = [r for r in rows if r["kind"] == kind and r["attacked"] == attacked]
            scores = [model_score(r) for r in those]
            true = [r["true"]["score"] for r in those if r["true"]]
            alarms = sum(known.verdict(s) == BACKDOOR for s in scores)
            lines.append(
                [
                    f"`{kind}`" if attacked else kind,
                    "attacked" if attacked else "clean",
                    str(len(those)),
                    str(alarms),
                    ", ".join(f"{s:.1f}" for s in sorted(scores, reverse=True)),
                    ", ".join(f"{s:.1f}" for s in sorted(true, reverse=True)),
                ]
            )
    return table(
        ["Kind", "", "Models", "Called backdoored", "Scores", "Scores of the true triggers"], lines
    )


def overall(rows: Sequence[Row]) -> str:
    lines = []
    for way, words in (NAMES | OTHERS).items():
        for half in ("calibration", "test"):
            if not (those := counted(rows, way, half)):
                continue
            known = calibrate(counted(rows, way, "calibration"))
            clean, bad = of(those, False), of(those, True)
            area = auroc_estimate(clean, bad)
            lines.append(
                [
                    words,
                    half,
                    str(len(bad)),
                    str(len(clean)),
                    f"{area.value:.2f} [{area.low:.2f}, {area.high:.2f}]",
                    share(int((bad >= known.alarm).sum()), len(bad)),
                    share(int((clean >= known.alarm).sum()), len(clean)),
                ]
            )
    return table(["How", "Half", "Attacked", "Clean", "AUROC", "Detected", "False alarms"], lines)


def draw_roc(rows: Sequence[Row], path: Path) -> None:
    """Of all models, both ways."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(4.6, 4.2), layout="constrained")
    for way, words in (NAMES | OTHERS).items():
        if not (those := counted(rows, way)):
            continue
        clean, bad = of(those, False), of(those, True)
        levels = np.concatenate([[np.inf], np.sort(np.concatenate([clean, bad]))[::-1]])
        x = [(clean >= level).mean() for level in levels]
        y = [(bad >= level).mean() for level in levels]
        area = auroc_estimate(clean, bad).value
        name = words.replace("`", "")
        axes.step(x, y, where="post", label=f"{name}: AUROC {area:.2f}")
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle=":")
    axes.axvline(FALSE, color="0.7", linewidth=1, linestyle="--")
    axes.set(xlabel="clean models called backdoored", ylabel="attacked models called backdoored")
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def report(folder: Path, rows: Sequence[Row], apply: bool) -> int:
    found = {}
    lines = [
        "# The zoo",
        "",
        "Attacked and clean models of the embedded base `shapes`, and what `vet` makes"
        " of each. Written by `python benchmarks/zoo.py report` from `models.jsonl`, which"
        " `python benchmarks/zoo.py make` and `score` made; how each model is made is in"
        " [zoo_models.py](../../benchmarks/zoo_models.py). An attack counts from a success of"
        f" {100 * HELD:.0f} % on. The thresholds are from the calibration half alone, by its clean"
        f" models: at most {100 * FALSE:.0f} % of them may be called backdoored. Brackets are 95 %"
        " intervals over models.",
        "",
        overall(rows),
        "",
        "![ROC](roc.png)",
        "",
        "## Verdicts on the test half",
        "",
        confusions(rows),
    ]
    for way, words in NAMES.items():
        if not (those := counted(rows, way)):
            continue
        known = calibrate(counted(rows, way, "calibration"))
        found[way] = asdict(known)
        title = words.replace("`", "").capitalize()
        lines += ["", f"## {title}, by kind", "", f"Thresholds: {known.words}.", ""]
        lines.append(of_kinds(those, known))
    weak = [r for r in rows if r["attacked"] and r["asr"] < HELD]
    if weak:
        said = {f"`{r['model']}` ({100 * r['asr']:.0f} %)" for r in weak}
        lines += ["", f"Attacks that did not take hold: {', '.join(sorted(said))}."]
    (folder / "README.md").write_text("\n".join(lines) + "\n", "utf-8")
    draw_roc(rows, folder / "roc.png")
    if apply:
        APPLIED.write_text(json.dumps({"shapes": found}, indent=1) + "\n", "utf-8")
    return 0
