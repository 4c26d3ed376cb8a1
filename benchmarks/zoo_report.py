"""What the zoo says: the calibration of `vet`, its verdicts on the half that this has not seen,
what detectors say of the same models, the ROC, and results/zoo/README.md."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import zoo_models
import zoo_recipe
from page_results import Results, table
from zoo_ways import BEST, DETECTORS, NOTHING, WAYS

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.detecting.calibration import BACKDOOR, NONE, UNSURE, Calibration
from t2i_backdoor_bench.stats.detectors import auroc_estimate
from t2i_backdoor_bench.stats.intervals import wilson

ROOT = Path(__file__).resolve().parents[1]
APPLIED = ROOT / "bench" / "detecting" / "calibration.json"
FALSE = 0.05  # share of clean models that may be called backdoored
DOUBT = 0.75  # quantile of the clean models above which nobody says "nothing found"
HELD = 0.5  # success of an attack from which the model counts as attacked
NAMES = {"trusted": "beside the clean model (`--base`)", "alone": "by itself"}
DRAWN = 2  # curves of the other ways in the figure: of those with the largest AUROC
VERDICTS = (BACKDOOR, UNSURE, NONE)
Row = Mapping[str, Any]


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(x) for x in path.read_text("utf-8").splitlines()]


def words_of(way: str) -> str:
    return f"`vet` {NAMES[way]}" if way in NAMES else f"`{way}`"


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
    rows = read_rows(results.root / "zoo" / "models.jsonl")
    return confusions(zoo_recipe.of_today(rows, zoo_recipe.today())[0])


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


def whole(rows: Sequence[Row]) -> list[str]:
    """The ways that have scored attacked and clean models of both halves."""
    halves = [(half, attacked) for half in zoo_models.HALVES for attacked in (True, False)]
    return [
        way
        for way in WAYS
        if all(len(of(counted(rows, way, half), attacked)) for half, attacked in halves)
    ]


def limit(rows: Sequence[Row], way: str) -> float:
    """The score from which on a model is called backdoored, by the clean models of the calibration
    half: for `vet` that of `calibrate`; for a detector, whose scores may be of any size, the least
    above that of all but FALSE of them."""
    seen = counted(rows, way, "calibration")
    if way in NAMES:
        return calibrate(seen).alarm
    clean = np.sort(of(seen, False))
    return float(np.nextafter(clean[len(clean) - int(FALSE * len(clean)) - 1], np.inf))


def area_of(clean: np.ndarray, bad: np.ndarray) -> str:
    found = auroc_estimate(clean, bad)
    between = "" if found.low is None else f" [{found.low:.2f}, {found.high:.2f}]"
    return f"{found.value:.2f}{between}"


def overall(rows: Sequence[Row]) -> str:
    """One line a way."""
    lines = []
    for way in whole(rows):
        every, test, least = counted(rows, way), counted(rows, way, "test"), limit(rows, way)
        clean, bad = of(test, False), of(test, True)
        lines.append(
            [
                words_of(way),
                str(len(of(every, True))),
                str(len(of(every, False))),
                area_of(of(every, False), of(every, True)),
                area_of(clean, bad),
                share(int((bad >= least).sum()), len(bad)),
                share(int((clean >= least).sum()), len(clean)),
                f"{np.mean([r['seconds'] for r in every]):.0f} s",
            ]
        )
    areas = ["AUROC", "AUROC, test half"]
    shares = ["Detected, test half", "False alarms, test half"]
    return table(["How", "Attacked", "Clean", *areas, *shares, "A model takes"], lines)


def curves(rows: Sequence[Row]) -> list[str]:
    """The ways whose curves are drawn: those of `vet`, and the best of the others."""
    ways = whole(rows)

    def area(way: str) -> float:
        those = counted(rows, way)
        return auroc_estimate(of(those, False), of(those, True)).value

    others = sorted((w for w in ways if w not in NAMES), key=area, reverse=True)
    return [w for w in ways if w in NAMES] + others[:DRAWN]


def draw_roc(rows: Sequence[Row], path: Path) -> None:
    """Of all models, by the ways of `curves`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(4.6, 4.2), layout="constrained")
    for way in curves(rows):
        those = counted(rows, way)
        clean, bad = of(those, False), of(those, True)
        levels = np.concatenate([[np.inf], np.sort(np.concatenate([clean, bad]))[::-1]])
        x = [(clean >= level).mean() for level in levels]
        y = [(bad >= level).mean() for level in levels]
        area = auroc_estimate(clean, bad).value
        name = words_of(way).replace("`", "")
        axes.step(x, y, where="post", label=f"{name}: AUROC {area:.2f}")
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle=":")
    axes.axvline(FALSE, color="0.7", linewidth=1, linestyle="--")
    axes.set(xlabel="clean models called backdoored", ylabel="attacked models called backdoored")
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def about_ways(rows: Sequence[Row]) -> list[str]:
    """How detectors came to a score of a model, and which ways have not scored all halves."""
    lines = []
    ways = whole(rows)
    if any(way in DETECTORS for way in ways):
        said = ", ".join(f"`{w}` {n} before {p}" for w, (n, p) in DETECTORS.items() if n > 1)
        lines = [
            "",
            "`amdet` reads the text encoder and has a verdict on the model. The other detectors"
            " judge prompts, and who vets a checkpoint has none with the trigger. So each is asked"
            f" about the {BEST} texts that the search of `vet` by itself put forward and {NOTHING}"
            " texts of random tokens, all before the same clean prompts: a model's score is the"
            " largest mean score of a text of the search, in standard deviations of the texts that"
            f" mean nothing. They learn from clean prompts where they have to ({said} prompts).",
        ]
    if not_scored := [w for w in WAYS if w not in ways]:
        names = ", ".join(words_of(w) for w in not_scored)
        lines += ["", f"Ways that have not scored models of both halves: {names}."]
    return lines


def page(rows: Sequence[Row], keys: Mapping[str, str]) -> str:
    """results/zoo/README.md. Raises UserError where nothing is scored."""
    rows, others = zoo_recipe.of_today(rows, keys)
    if not whole(rows):
        raise UserError("no way has scored attacked and clean models of both halves: run `score`")
    made = f"{len(zoo_models.attacked())} attacked and {len(zoo_models.clean())} clean"
    lines = [
        "# The zoo",
        "",
        f"Attacked and clean models of the embedded base `shapes` ({made} in the recipe), and what"
        " `vet` and detectors make of each. Written by `python benchmarks/zoo.py report` from"
        " `models.jsonl`, which `python benchmarks/zoo.py make` and `score` made; how each model is"
        " made is in [zoo_models.py](../../benchmarks/zoo_models.py). An attack counts from a"
        f" success of {100 * HELD:.0f} % on. The thresholds are from the calibration half alone, by"
        f" its clean models: at most {100 * FALSE:.0f} % of them may be called backdoored. Brackets"
        " are 95 % intervals over models.",
        *(["", others] if others else []),
        "",
        overall(rows),
        *about_ways(rows),
        "",
        "![ROC](roc.png)",
        "",
        "## Verdicts on the test half",
        "",
        confusions(rows),
    ]
    for way, known in calibrations(rows).items():
        title = NAMES[way].replace("`", "").capitalize()
        lines += ["", f"## {title}, by kind", "", f"Thresholds: {known.words}.", ""]
        lines.append(of_kinds(counted(rows, way), known))
    weak = {r["model"]: r["asr"] for r in rows if r["attacked"] and r["asr"] < HELD}
    if weak:
        said = ", ".join(sorted(f"`{name}` ({100 * asr:.0f} %)" for name, asr in weak.items()))
        lines += ["", f"Attacks that did not take hold: {said}."]
    return "\n".join(lines) + "\n"


def calibrations(rows: Sequence[Row]) -> dict[str, Calibration]:
    """Of the ways of `vet`."""
    ways = [w for w in whole(rows) if w in NAMES]
    return {w: calibrate(counted(rows, w, "calibration")) for w in ways}


def report(folder: Path, rows: Sequence[Row], apply: bool) -> int:
    keys = zoo_recipe.today()
    (folder / "README.md").write_text(page(rows, keys), "utf-8")
    used, others = zoo_recipe.of_today(rows, keys)
    if others:
        print(others, flush=True)
    draw_roc(used, folder / "roc.png")
    if apply:
        found = {way: asdict(known) for way, known in calibrations(used).items()}
        APPLIED.write_text(json.dumps({"shapes": found}, indent=1) + "\n", "utf-8")
    return 0
