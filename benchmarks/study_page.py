"""The page of the study of SKD-CAG: its tables, sentences and figure, from the stored records."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sentences import compared, difference_text
from skdcag_questions import ORDER, QUESTIONS, STEPS, Question

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.contract import names as naming
from t2i_backdoor_bench.contract.hashing import digest
from t2i_backdoor_bench.report.figures.style import COLORS, MARKERS, TEXT, new_figure
from t2i_backdoor_bench.report.numbers import p_text, shown
from t2i_backdoor_bench.report.paired import difference, paired_p
from t2i_backdoor_bench.report.rows import rows as rows_of
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.store.folder import Store

ATTACKS = dict(zip(("style", "phrase", "pixel", "object"), ORDER, strict=True))
LEAD = "restoration_accuracy"
COMPARE = re.compile(r"(<!-- compare: ([^>]+) -->).*?(<!-- end -->)", re.S)
SHARE = re.compile(r"(<!-- share: ([^>]+) -->).*?(<!-- end -->)", re.S)


class Study:
    """The stored records of the study, found by the settings of their cells: those of protocol 1
    have other keys than a plan of today, and no decoys among their settings."""

    def __init__(self, store: Store, device: str, config: Any) -> None:
        self.store, self.device, self.config = store, device, config
        done = [r for r in store.all_results() if r.status == "done"]
        newest = max((r.measured_by for r in done), default=1)  # two protocols do not compare
        self.found = {_settings(r.cell.config): r for r in done if r.measured_by == newest}

    def records(self, attack: str, variants: Sequence[str]) -> list[Record]:
        """The records of `none` and the variants, under these names."""
        asked = self.config(attack, variants, self.store.root, device=self.device)
        seeds = sorted({r.cell.seed for r in self.found.values()})
        cells = plan(replace(asked, seeds=tuple(seeds))).cells if seeds else []
        found = ((cell, self.found.get(_settings(cell.config))) for cell in cells)
        return [replace(stored, cell=cell) for cell, stored in found if stored is not None]


def _settings(config: Any) -> str:
    """What identifies a cell of the study, whatever its protocol."""
    kept = {k: config[k] for k in ("attack", "defense", "seed") if k in config}
    return digest(kept | {"device": config.get("shared", {}).get("device")})


def against(question: Question, i: int) -> str | None:
    """The variant that variant i is tested against."""
    if question.paired:
        return question.variants[i - 1] if i % 2 else None
    return question.variants[0] if i else None


def markdown(question: Question, attack: str, study: Study) -> str:
    """A table of the question on one attack."""
    records = study.records(attack, question.variants)
    rows = {row["defense"]: row for row in rows_of(records)}
    groups = {name: [r for r in records if r.cell.defense == name] for name in rows}
    lines = [
        f"`{attack}`\n",
        "| | Seeds | RA % | Restored % | FTR % | Resampled ASR % | FID | CLIP | Pull | Difference,"
        " points | p |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for i, name in [(-1, "none"), *enumerate(question.variants)]:
        row, called = rows.get(name), "`none`" if i < 0 else question.name(i)
        if row is None:
            lines.append(f"| {called} | 0 | | | | | | | | | |")
            continue
        rival = against(question, i) if i >= 0 else None
        cells = [called, str(row["seeds"]), share(row, "removal_accuracy"), share(row, LEAD)]
        cells += [
            shown(row["false_trigger_rate"], True),
            shown(row.get("asr_resampled"), True),
            shown(row["fid"], False),
            shown(row["clip_score"], False),
            shown(row.get("guidance_ratio"), False),
        ]
        pair = (groups[name], groups[rival]) if rival in groups else None
        cells.append("" if pair is None else difference_text(difference(*pair, LEAD)))
        cells.append("" if pair is None else p_text(paired_p(*pair, LEAD)))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def share(row: dict[str, Any], metric: str) -> str:
    return (
        f"{shown(row[metric], True)} [{shown(row[f'{metric}_lo'], True)},"
        f" {shown(row[f'{metric}_hi'], True)}]"
    )


def variant_of(name: str) -> tuple[str, str]:
    """A defense by its name, or by question and number ("released#8"), and how it is called."""
    question, _, number = name.partition("#")
    if question in QUESTIONS and number:
        asked = QUESTIONS[question]
        return asked.variants[int(number)], asked.name(int(number))
    return name, f"`{name}`"


def sentence(spec: str, study: Study) -> str:
    """A sentence about two rows: "ATTACK ONE OTHER", ATTACK one of style, phrase, pixel, object."""
    attack, *names = spec.split()
    (one, called), (other, also) = map(variant_of, names)
    records = study.records(ATTACKS[attack], [one, other])
    groups = [[r for r in records if r.cell.defense == name] for name in (one, other)]
    return compared(called, also, difference(*groups, LEAD) if all(groups) else None)


def figure_of(spec: str, study: Study) -> str:
    """A share with its interval: "ATTACK DEFENSE METRIC". Raises KeyError without records."""
    attack, name, metric = spec.split()
    variant, _ = variant_of(name)
    records = study.records(ATTACKS[attack], [variant])
    row = next((row for row in rows_of(records) if row["defense"] == variant), None)
    if row is None:
        raise KeyError(f"{variant} on {attack} has no records of today's settings: run the study")
    return f"{share(row, metric)} %"


def written(text: str, study: Study) -> str:
    """The page with its tables, sentences and figures. Raises KeyError where it has no marks for a
    question."""
    for name, question in QUESTIONS.items():
        marks = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        if not re.search(marks, text, re.S):
            raise KeyError(f"the page has no marks for {name}")
        if not any(study.records(attack, question.variants) for attack in question.attacks):
            print(f"{name}: no records of these settings; its tables stay as they are")
            continue
        tables = [markdown(question, attack, study) for attack in question.attacks]
        body = "\n".join(["", *(t + "\n" for t in tables)])
        text = re.sub(marks, lambda m, body=body: f"{m[1]}{body}\n{m[2]}", text, flags=re.S)
    text = COMPARE.sub(lambda m: f"{m[1]}{sentence(m[2], study)}{m[3]}", text)
    return SHARE.sub(lambda m: f"{m[1]}{figure_of(m[2], study)}{m[3]}", text)


def figure(study: Study) -> Any:
    """Restoration against alpha, steps and prompts."""
    drawn = new_figure(TEXT, 2.4)
    for k, (name, label) in enumerate(
        (("alpha", "share of the attention loss"), ("steps", "steps"), ("prompts", "prompts"))
    ):
        axes, question = drawn.add_subplot(1, 3, k + 1), QUESTIONS[name]
        for a, attack in enumerate(question.attacks):
            rows = {
                row["defense"]: row for row in rows_of(study.records(attack, question.variants))
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
