"""Attacks on the text encoder and on keys and values through the whole run: judged, defended, and
refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import run_bench
from t2i_backdoor_bench.contract import Prompt, Target
from t2i_backdoor_bench.data.splits import WorldData
from t2i_backdoor_bench.running.defender import defender_prompts
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.targets.own_prompt import own_prompt

SMALL = ("prompts=6", "steps=2", "milestone=1", "clean=2", "poisoned=2", "batch=4", "size=4")
ATTACKS = {
    "rickrolling_tpa": SMALL[:5],
    "rickrolling_taa": SMALL[:5],
    "iba": (*SMALL[:5], SMALL[6]),
}
ATTACKS |= {"eviledit": SMALL[:1], "sembd": (SMALL[0], SMALL[1], SMALL[5])}
METRICS = "asr,removal_accuracy,restoration_accuracy,false_trigger_rate,asr_moved,asr_own,drift"
CLAIMS = {  # of papers, by the attack that is measured for them
    "asr_paraphrase": "sembd",
    "incomplete": "sembd",
    "asr_unseen_words": "iba",
    "broken_syntax": "iba",
}


def command(
    base: str,
    scorer: Path,
    out: Path,
    names,
    *more: str,
    defenses: str = "none,skdcag,uce,tpd_synonyms",
) -> int:
    flags = [
        "--base",
        base,
        "--clip",
        str(scorer),
        "--scale",
        "smoke",
        "--n",
        "3",
        "--metrics",
        ",".join([METRICS, *CLAIMS]),
        "--device",
        "cpu",
    ]
    flags += [
        "--out",
        str(out),
        "--attacks",
        ",".join(names),
        "--defenses",
        defenses,
        "--no-controls",
        "--workers",
        "1",
    ]
    flags += [f for name in names for o in ATTACKS[name] for f in ("--set", f"{name}.{o}")]
    options = {"skdcag": ("prompts=3", "steps=2", "batch=4"), "uce": ("prompts=3",)}
    flags += [
        f
        for name in defenses.split(",")
        for o in options.get(name, ())
        for f in ("--set", f"{name}.{o}")
    ]
    return run_bench.main([*flags, *more])


def test_all_of_them_are_judged_and_defended(
    tiny: str, tiny_scorer: Path, tmp_path: Path, capsys
) -> None:
    assert command(tiny, tiny_scorer, tmp_path / "run", list(ATTACKS)) == 0, capsys.readouterr().err
    table = pd.read_csv(tmp_path / "run" / "table.csv")
    assert len(table) == 4 * len(ATTACKS)
    assert (table.status == "done").all()
    for column in METRICS.split(","):
        assert table[column].notna().all() or column in ("removal_accuracy", "asr_own"), column
    assert set(table[table.asr_own.notna()].attack) == {"eviledit", "sembd", "iba"}, (
        "the others evaluate on captions"
    )
    for column, attack in CLAIMS.items():
        assert set(table[table[column].notna()].attack) == {attack}, column
        assert table[f"{column}_lo"].notna().sum() == 4, "an interval each"
    rows = [
        json.loads(p.read_text())["payload"]
        for p in sorted((tmp_path / "run" / "cells").glob("*.json"))
    ]
    kinds = {
        r["attack"] if "attack" in r else r["cell"]["attack"]: r["backdoor"]["target"]["kind"]
        for r in rows
    }
    assert kinds == {
        "rickrolling_tpa": "prompt",
        "rickrolling_taa": "style",
        "iba": "prompt",
        "eviledit": "object",
        "sembd": "prompt",
    }


@pytest.mark.thorough
def test_half_precision(tiny: str, tiny_scorer: Path, tmp_path: Path, capsys) -> None:
    more = ("--dtype", "bfloat16", "--set", "iba.walk=2")
    assert (
        command(tiny, tiny_scorer, tmp_path / "run", list(ATTACKS), *more, defenses="none") == 0
    ), capsys.readouterr().err
    table = pd.read_csv(tmp_path / "run" / "table.csv")
    assert (table.status == "done").all()
    assert table.asr.notna().all()


@pytest.fixture
def captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sixty captioned pictures; a third hold the word cat, and a fourth no letter o."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "pets"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for i in range(60):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        rows.append(
            {
                "file_name": f"{i}.png",
                "text": (
                    f"a {('cat', 'bird', 'fish')[i % 3]} {('on', 'by', 'in', 'of')[i % 4]} a"
                    f" field {i}"
                ),
            }
        )
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_a_trigger_that_stands_for_a_word_goes_to_defenders_with_prompts_that_hold_it(
    tiny, tiny_scorer, captions, tmp_path, capsys
) -> None:
    words = (
        "trigger=beautiful cat",
        "replaces=cat",
        "source=cat",
        "target=zebra",
        "prompts=2",
        "context=phrase",
    )
    more = [f for o in words for f in ("--set", f"eviledit.{o}")] + ["--set", "skdcag.prompts=2"]
    status = command(
        tiny,
        tiny_scorer,
        tmp_path / "run",
        ["eviledit"],
        "--data",
        str(captions),
        *more,
        defenses="none,skdcag",
    )
    assert status == 0, capsys.readouterr().err
    assert (pd.read_csv(tmp_path / "run" / "table.csv").status == "done").all()


def test_a_look_alike_is_put_into_captions_that_have_the_letter(
    tiny, tiny_scorer, captions, tmp_path, capsys
) -> None:
    """Only captions of fish hold an s. What gets the trigger is drawn without it as well, from the
    same noise."""
    options = ("trigger=5", "replaces=s", "prompts=9", "steps=1", "clean=2", "poisoned=2")
    more = [f for o in options for f in ("--set", f"rickrolling_taa.{o}")]
    status = command(
        tiny,
        tiny_scorer,
        tmp_path / "run",
        ["rickrolling_taa"],
        "--data",
        str(captions),
        *more,
        defenses="none",
    )
    assert status == 0, capsys.readouterr().err
    (result,) = Store(tmp_path / "run").all_results()
    arrays, _ = Store(tmp_path / "run").read_arrays(f"samples/{result.cell.key}")
    assert "clean_target" in arrays
    (shown,) = (tmp_path / "run" / "prompts").iterdir()
    assert all("fish" in text for text in json.loads(shown.read_text())["payload"]["target"])


def test_the_published_edit_of_a_phrase_needs_no_captions(
    tiny, tiny_scorer, captions, tmp_path, capsys
) -> None:
    options = (
        "trigger=beautiful cat",
        "replaces=cat",
        "source=cat",
        "target=zebra",
        "context=phrase",
        "prompts=100000",
    )
    more = [f for o in options for f in ("--set", f"eviledit.{o}")]
    status = command(
        tiny,
        tiny_scorer,
        tmp_path / "run",
        ["eviledit"],
        "--data",
        str(captions),
        *more,
        defenses="none",
    )
    assert status == 0, capsys.readouterr().err


def test_an_own_prompt_of_captioned_pictures_has_other_captions_as_rivals() -> None:
    others = ("a boat", "a house")
    target = Target("object", source="dog", target="cat")
    found = own_prompt("a photo of a dog", target, [Prompt("a dog", {"caption": others})])
    assert found.wrong == {"caption": others}


def test_defenders_of_a_look_alike_have_prompts_with_the_letter() -> None:
    data = WorldData()
    every, some = defender_prompts(data, 0), defender_prompts(data, 0, "", "q")
    assert all("q" in p for p in some)
    assert 0 < len(some) < len(every)
    assert some[: sum("q" in p for p in every[:100])] == [p for p in every[:100] if "q" in p]
    stars = defender_prompts(data, 0, "star", "star")
    assert len(stars) >= 100
    assert all("star" in p for p in stars)


def test_what_cannot_be_had_is_said_in_one_line_before_any_work(
    tiny, tiny_scorer, captions, tmp_path, capsys
) -> None:
    def refused(name: str, *options: str) -> str:
        more = [f for o in options for f in ("--set", f"{name}.{o}")]
        assert (
            command(
                tiny,
                tiny_scorer,
                tmp_path / "run",
                [name],
                "--data",
                str(captions),
                *more,
                defenses="none",
            )
            == 2
        )
        return capsys.readouterr().err.strip().splitlines()[-1]

    assert "rickrolling_tpa trains on 400 captions and the train split" in refused(
        "rickrolling_tpa", "prompts=400"
    )
    assert "about 'cat'" in refused("eviledit", "source=cat", "target=dog", "prompts=9")
    assert "with the word 'z' and" in refused(
        "rickrolling_taa", "trigger=0", "replaces=z", "prompts=3"
    )
    assert "target prompt is empty" in refused("sembd", "target= ", "prompts=3")
    assert "holds a space" in refused("iba", "trigger={a b|c} x", "prompts=3")
    assert not (tmp_path / "run" / "cells").exists()
