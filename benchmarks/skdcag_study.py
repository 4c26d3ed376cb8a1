"""Does cross-attention guidance help? Runs the study that answers this, and writes its page.

    python benchmarks/skdcag_study.py run     # hours on two cores; a killed study resumes
    python benchmarks/skdcag_study.py run --only alpha,steps
    python benchmarks/skdcag_study.py run --attacks style --device cuda --threads 1 --workers 9
    python benchmarks/skdcag_study.py report --device cuda   # of one device, into docs/skdcag.md

Three seeds, 64 evaluation prompts, and STEPS steps of defense for every variant: few enough that
some of them fail. All cells are in one folder; a cell that several questions share is computed
once.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from skdcag_questions import ORDER, QUESTIONS, STYLE_ATTACK, pinned
from study_page import ATTACKS, Study, figure, written

from t2i_backdoor_bench.report.figures.style import STYLE, save
from t2i_backdoor_bench.running.scales import SCALES
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.store.folder import Store

MAPS = (
    "skd",
    "skdcag_gaussian",
    "skdcag_black",
    "skdcag_random_words",
)  # at their own number of steps, seed 0
METRICS = (
    "asr,removal_accuracy,restoration_accuracy,"
    "asr_resampled,false_trigger_rate,fid,clip_score,prompt_fidelity,drift,guidance_ratio,seconds"
)

# `study` with a quarter of its prompts: the intervals are over three training seeds, which differ
# by more than 64 prompts do, and the rows have the same prompts and noise
SCALE = replace(SCALES["study"].resized(64), resampled=18)
SAMPLED = 15  # steps in which pictures are drawn


def config(attack: str, defenses: Sequence[str], folder: Path, **machine: Any) -> Config:
    names = ",".join(dict.fromkeys(["none", *defenses]))
    return Config(
        attacks=attack,
        defenses=names,
        scale=SCALE,
        metrics=METRICS,
        overrides=pinned([attack, *defenses]),
        steps=SAMPLED,
        out=folder,
        **machine,
    )


def parts(names: Sequence[str]) -> dict[str, list[str]]:
    """The defenses of each attack, of all questions together: one run an attack keeps all cores
    busy to its end."""
    found: dict[str, list[str]] = {}
    for name in names:
        for attack in QUESTIONS[name].attacks:
            found[attack] = list(dict.fromkeys([*found.get(attack, []), *QUESTIONS[name].variants]))
    return dict(sorted(found.items(), key=lambda part: ORDER.index(part[0])))


def run(names: Sequence[str], attacks: Sequence[str], folder: Path, **machine: Any) -> int:
    from t2i_backdoor_bench import command as runner

    for attack, defenses in parts(names).items():
        if attack in attacks and (
            status := runner.run(config(attack, defenses, folder, **machine), show=False)
        ):
            return status
    maps = replace(config(STYLE_ATTACK, MAPS, folder, **machine), seeds=(0,), attention_maps=True)
    return runner.run(maps, show=False) if "targets" in names and STYLE_ATTACK in attacks else 0


def report(folder: Path, page: Path, device: str = "cpu") -> int:
    """Of the records made on `device`: write tables and sentences between their marks in the page,
    and draw the figures beside it."""
    import matplotlib

    study = Study(Store(folder), device, config)
    try:
        text = written(page.read_text(), study)
    except KeyError as error:
        print(error.args[0], file=sys.stderr)
        return 1
    page.write_text(text)
    maps = folder / f"attention-{STYLE_ATTACK}.png"
    if maps.is_file():  # drawn by the run
        shutil.copyfile(maps, page.parent / "skdcag-attention.png")
    with matplotlib.rc_context(STYLE):
        save(figure(study), page.parent / "skdcag-study")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("--out", type=Path, default=Path("results/skdcag-study"))
    parser.add_argument(
        "--only", default=",".join(QUESTIONS), help="questions, separated by commas"
    )
    parser.add_argument("--page", type=Path, default=Path("docs/skdcag.md"))
    parser.add_argument(
        "--attacks", default="style,phrase,pixel,object", help="separated by commas"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--workers", type=int, help="as of run_bench.py")
    args = parser.parse_args()
    names = args.only.split(",")
    if unknown := set(names) - set(QUESTIONS):
        parser.error(
            f"unknown questions: {', '.join(sorted(unknown))}; known: {', '.join(QUESTIONS)}"
        )
    if args.what == "report":
        return report(args.out, args.page, args.device)
    if unknown := set(args.attacks.split(",")) - set(ATTACKS):
        parser.error(f"unknown attacks: {', '.join(sorted(unknown))}; known: {', '.join(ATTACKS)}")
    chosen = [ATTACKS[a] for a in args.attacks.split(",")]
    return run(
        names, chosen, args.out, device=args.device, threads=args.threads, workers=args.workers
    )


if __name__ == "__main__":
    sys.exit(main())
