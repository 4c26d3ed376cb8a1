"""Does cross-attention guidance help? Runs the study that answers this, and writes its page.

    python benchmarks/skdcag_study.py run     # hours on two cores; a killed study resumes
    python benchmarks/skdcag_study.py run --only alpha,steps
    python benchmarks/skdcag_study.py run --attacks style --device cuda --threads 1 --workers 9
    python benchmarks/skdcag_study.py report --device cuda   # of one device, into docs/skdcag.md

Three seeds, 200 evaluation prompts, and STEPS steps of defense for every variant: few enough that
some of them fail. All cells are in one folder; a cell that several questions share is computed
once.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from skdcag_questions import ORDER, QUESTIONS, STEPS, STYLE_ATTACK, Question

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.contract import names as naming
from t2i_backdoor_bench.report.figures.style import COLORS, MARKERS, STYLE, TEXT, new_figure, save
from t2i_backdoor_bench.report.numbers import shown
from t2i_backdoor_bench.report.paired import paired_p
from t2i_backdoor_bench.report.rows import by_row
from t2i_backdoor_bench.report.rows import rows as rows_of
from t2i_backdoor_bench.running.plan import plan
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
    "false_trigger_rate,fid,clip_score,prompt_fidelity,drift,seconds"
)


def config(attack: str, defenses: Sequence[str], folder: Path, **machine: Any) -> Config:
    names = ",".join(dict.fromkeys(["none", *defenses]))
    return Config(
        attacks=attack,
        defenses=names,
        scale=SCALES["study"],
        metrics=METRICS,
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


# ------------------------------------------------------------------------------------------- report
def records_of(question: Question, attack: str, store: Store, device: str = "cpu") -> list[Record]:
    """The stored records of a question, under the question's own names of the variants."""
    found = []
    for cell in plan(config(attack, question.variants, store.root, device=device)).cells:
        stored = store.read_result(cell.key)
        if stored is not None and stored.status == "done":
            found.append(replace(stored, cell=cell))
    return found


def against(question: Question, i: int) -> str | None:
    """The variant that variant i is tested against."""
    if question.paired:
        return question.variants[i - 1] if i % 2 else None
    return question.variants[0] if i else None


def markdown(question: Question, attack: str, records: Sequence[Record]) -> str:
    """A table of the question on one attack."""
    rows = {row["defense"]: row for row in rows_of(records)}
    groups = {defense: cells for (_, _, defense), cells in by_row(records).items()}
    lines = [
        f"`{attack}`\n",
        "| | Seeds | RA % | Restored % | FTR % | FID | CLIP | p |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for i, name in [(-1, "none"), *enumerate(question.variants)]:
        row, called = rows.get(name), "`none`" if i < 0 else question.name(i)
        if row is None:
            lines.append(f"| {called} | 0 | | | | | | |")
            continue
        rival = against(question, i) if i >= 0 else None
        p = (
            paired_p(groups[name], groups[rival], "restoration_accuracy")
            if rival in groups
            else None
        )
        cells = [
            called,
            str(row["seeds"]),
            share(row, "removal_accuracy"),
            share(row, "restoration_accuracy"),
        ]
        cells += [
            shown(row["false_trigger_rate"], True),
            shown(row["fid"], False),
            shown(row["clip_score"], False),
        ]
        cells.append("" if p is None else f"{p:.3f}" if p >= 0.001 else f"{p:.0e}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def share(row: dict[str, Any], metric: str) -> str:
    return (
        f"{shown(row[metric], True)} [{shown(row[f'{metric}_lo'], True)},"
        f" {shown(row[f'{metric}_hi'], True)}]"
    )


def figure(store: Store, device: str) -> Any:
    """Restoration against alpha, steps and prompts."""
    drawn = new_figure(TEXT, 2.4)
    for k, (name, label) in enumerate(
        (("alpha", "share of the attention loss"), ("steps", "steps"), ("prompts", "prompts"))
    ):
        axes, question = drawn.add_subplot(1, 3, k + 1), QUESTIONS[name]
        for a, attack in enumerate(question.attacks):
            rows = {
                row["defense"]: row for row in rows_of(records_of(question, attack, store, device))
            }
            for m, method in enumerate(("skd", "skdcag")):
                points = []
                for full in question.variants:
                    bare, options = naming.read(full)
                    if name == "alpha" and bare == "skd":
                        bare, options = "skdcag", {"alpha": "0"}
                    default = {"alpha": "0.5", "steps": str(STEPS), "prompts": "100"}[name]
                    if (
                        bare == method
                        and full in rows
                        and rows[full]["restoration_accuracy"] is not None
                    ):
                        points.append((float(options.get(name, default)), rows[full]))
                if not points:
                    continue
                x, y = (
                    [p for p, _ in points],
                    [100 * row["restoration_accuracy"] for _, row in points],
                )
                low = [
                    v - 100 * row["restoration_accuracy_lo"]
                    for v, (_, row) in zip(y, points, strict=True)
                ]
                high = [
                    100 * row["restoration_accuracy_hi"] - v
                    for v, (_, row) in zip(y, points, strict=True)
                ]
                way = {
                    "color": COLORS[m],
                    "marker": MARKERS[a],
                    "linestyle": "-" if a == 0 else "--",
                }
                axes.errorbar(
                    x, y, [low, high], ms=3.5, lw=1, capsize=2, label=f"{method}, {attack}", **way
                )
        axes.set_xlabel(label)
        if name != "alpha":
            axes.set_xscale("log")
            axes.set_xticks(
                [float(v) for v in sorted({p for p in ticks(question, name)})],
                sorted(ticks(question, name)),
            )
            axes.minorticks_off()
        axes.grid(alpha=0.25)
    drawn.axes[0].set_ylabel("restored %")
    handles, names = drawn.axes[1].get_legend_handles_labels()
    drawn.legend(handles, names, loc="outside lower center", ncols=4, frameon=False)
    return drawn


def ticks(question: Question, name: str) -> set[int]:
    found = (naming.read(v)[1].get(name) for v in question.variants)
    return {int(v) for v in found if v} | ({100} if name == "prompts" else set())


def report(folder: Path, page: Path, device: str = "cpu") -> int:
    """Of the records made on `device`: put every table between its two marks in the page, and draw
    the figures beside it."""
    import matplotlib

    store, text = Store(folder), page.read_text()
    for name, question in QUESTIONS.items():
        parts_ = [
            markdown(question, attack, records_of(question, attack, store, device))
            for attack in question.attacks
        ]
        marks = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        if not re.search(marks, text, re.S):
            print(f"the page has no marks for {name}", file=sys.stderr)
            return 1
        body = "\n".join(["", *(p + "\n" for p in parts_)])
        text = re.sub(marks, lambda m, body=body: f"{m[1]}{body}\n{m[2]}", text, flags=re.S)
    page.write_text(text)
    maps = folder / f"attention-{STYLE_ATTACK}.png"
    if maps.is_file():  # drawn by the run
        shutil.copyfile(maps, page.parent / "skdcag-attention.png")
    with matplotlib.rc_context(STYLE):
        save(figure(store, device), page.parent / "skdcag-study")
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
    attacks = dict(zip(("style", "phrase", "pixel", "object"), ORDER, strict=True))
    if unknown := set(args.attacks.split(",")) - set(attacks):
        parser.error(f"unknown attacks: {', '.join(sorted(unknown))}; known: {', '.join(attacks)}")
    chosen = [attacks[a] for a in args.attacks.split(",")]
    return run(
        names, chosen, args.out, device=args.device, threads=args.threads, workers=args.workers
    )


if __name__ == "__main__":
    sys.exit(main())
