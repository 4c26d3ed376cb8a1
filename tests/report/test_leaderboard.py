"""leaderboard.md: groups by needs, ranks among those that keep the quality, ties by the paired
test."""

from __future__ import annotations

import dataclasses

import pytest
from report_records import EXTRA, share

from t2i_backdoor_bench.contract import Cell, Record, Score
from t2i_backdoor_bench.report import leaderboard, texts
from t2i_backdoor_bench.stats import estimates as stats


def record(
    attack: str,
    defense: str,
    restored: list[bool],
    fid: float = 1.0,
    needs=("trigger",),
    seed: int = 0,
    clip=(20.0, 19.5, 20.5),
):
    n = len(restored)
    scores = {
        "asr": share(10 if defense == "none" else 0),
        "removal_accuracy": share(0 if defense == "none" else 10),
        "restoration_accuracy": Score(
            sum(restored) / n, *stats.wilson(sum(restored), n), n, "net", "", restored
        ),
        "fid": Score(fid, n=n, network="net"),
        "clip_score": Score(*clip, n, "net"),
    }
    cell = Cell("shapes", attack, defense, seed, f"{attack}-{defense}-{seed}")
    return Record(cell, "done", scores, needs, cost={"seconds": 3.0}, **EXTRA)


def flags(good: int, n: int = 40) -> list[bool]:
    return [i < good for i in range(n)]


@pytest.fixture
def records():
    found = []
    for seed in (0, 1):
        for attack in ("bad_pixel", "bad_style"):
            found += [
                record(attack, "none", flags(0), 1.0 + 0.02 * seed, (), seed),
                record(attack, "best", flags(40), 1.01, seed=seed),
                record(attack, "like_it", flags(39), 1.0, seed=seed),
                record(attack, "worse", flags(20), 1.0, seed=seed),
                record(
                    attack, "spoils", flags(40), 9.0 if attack == "bad_style" else 1.0, seed=seed
                ),
                record(attack, "told", flags(40), 1.0, ("trigger", "clean_model"), seed),
                record(
                    attack, "blind_one", flags(10), 1.0, ("stream",), seed, clip=(19.0, 18.0, 20.0)
                ),
            ]
    return found


def lines(text: str) -> dict[str, list[str]]:
    rows = [
        [c.strip() for c in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| ") and "Defense" not in line
    ]
    return {row[1]: row for row in rows}


def test_groups_ranks_and_ties(records) -> None:
    text = leaderboard.to_markdown(records)
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## Oracle",
        "## Trigger known",
        "## Blind",
    ]
    rows = lines(text)
    assert [rows[d][0] for d in ("told", "best", "like_it", "worse")] == ["1", "1", "1 (tie)", "3"]
    assert rows["best"][8] == "+0.0 [-12.6, +12.6]", (
        "FID 1.01 against 1.00 and 1.02: +1.0 and -1.0 %, Student's t of two seeds"
    )
    assert rows["like_it"][-1] == "0.125", (
        "four of 160 prompts differ, all in one direction: p = 2 / 2^4"
    )
    assert float(rows["worse"][-1]) < 0.001
    assert rows["told"][2] == "trigger, clean model"
    assert rows["best"][3].startswith("100.0 [")


def test_lost_quality_is_named_and_not_ranked(records) -> None:
    rows = lines(leaderboard.to_markdown(records))
    assert (rows["spoils"][0], rows["spoils"][-2]) == ("–", "lost: FID of bad_style")
    assert rows["blind_one"][-2] == "lost: CLIP of bad_pixel, CLIP of bad_style"
    assert rows["best"][-2] == "kept", (
        "within the interval that the undefended model itself has over seeds"
    )


def test_what_has_not_run_on_every_attack_is_not_ranked(records) -> None:
    fewer = [r for r in records if (r.cell.defense, r.cell.attack) != ("like_it", "bad_style")]
    fewer.append(
        dataclasses.replace(
            fewer[0],
            cell=Cell("shapes", "bad_style", "like_it", 0, "x"),
            status="failed",
            scores={},
            needs=("trigger",),
        )
    )
    assert lines(leaderboard.to_markdown(fewer))["like_it"][0] == "–"


def test_quality_that_nobody_measured_is_not_kept(records) -> None:
    rows = lines(leaderboard.to_markdown([r for r in records if r.cell.defense != "none"]))
    assert (rows["best"][0], rows["best"][-2]) == ("–", "not measured")


@pytest.mark.parametrize(
    ("kept", "line"),
    [
        (("fid", "clip_score"), "Undefended: FID 1.01, CLIP 20.0."),
        (("clip_score",), "Undefended: CLIP 20.0."),
        ((), None),
    ],
)
def test_metrics_that_were_not_asked_for_are_not_missed(records, kept, line) -> None:
    for result in records:
        for name in {"fid", "clip_score"} - set(kept):
            del result.scores[name]
    said = [
        text
        for text in leaderboard.to_markdown(records).splitlines()
        if text.startswith("Undefended")
    ]
    assert said == ([line] if line else [])


def test_no_leaderboard_of_attacks_alone(records, tmp_path) -> None:
    alone = [r for r in records if r.cell.defense == "none"]
    path = tmp_path / "leaderboard.md"
    assert path not in texts.write(alone, tmp_path)
    assert path in texts.write(records, tmp_path)
    assert path not in texts.write(alone, tmp_path)
    assert not path.exists(), "not that of an earlier plan"


def test_a_tie_behind_what_is_told_apart_is_a_tie(records) -> None:
    """The third restores less than the second, but was drawn once, and five pictures do not tell it
    from the first."""
    kept = [r for r in records if r.cell.defense in ("none", "best")]
    apart = [
        record(a, "second", flags(38), seed=s) for a in ("bad_pixel", "bad_style") for s in (0, 1)
    ]
    few = [record("bad_pixel", "third", flags(37)), record("bad_style", "third", flags(38))]
    rows = lines(leaderboard.to_markdown([*kept, *apart, *few]))
    assert [rows[d][0] for d in ("best", "second", "third")] == ["1", "2", "1 (tie)"]
