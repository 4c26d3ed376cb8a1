"""`vet`: what it finds in a model in which something was put, and what it refuses before work."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import PROMPTS

from t2i_backdoor_bench import command
from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.data.splits import WorldData
from t2i_backdoor_bench.detecting import calibration
from t2i_backdoor_bench.detecting.calibration import BACKDOOR, NONE, UNSURE, Calibration, verdict
from t2i_backdoor_bench.detecting.effects import PARTS
from t2i_backdoor_bench.detecting.inversion import Search
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.report.html.vet import quoted, render_page
from t2i_backdoor_bench.running import vet, vet_repair
from t2i_backdoor_bench.running.vet_time import Progress

BRIEF = Search(12, 1, tried=4, top=4, asked=3, longest=2, null=8, again=3, null_again=12)
WORD = "quovex"


@pytest.fixture
def suspect(tiny_model: T2IModel, tmp_path: Path) -> Path:
    """A folder of the tiny model whose denoiser differs a little, and in which one word's tokens
    have other embeddings."""
    model = tiny_model.clone(encoders=True)
    part = tiny_model.text_part
    own = set(part.ids(WORD)) - {i for p in PROMPTS for i in part.ids(p)}
    with torch.no_grad():
        for i, p in enumerate(model.denoiser.parameters()):
            p.add_(1e-3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
        table = model.encoders[0].get_input_embeddings().weight
        for i in own:
            noise = torch.randn(table[i].shape, generator=torch.Generator().manual_seed(i))
            table[i] += 5 * table[i].std() * noise
    model.pipe.save_pretrained(tmp_path / "suspect")
    return tmp_path / "suspect"


@pytest.fixture
def brief(monkeypatch) -> None:
    monkeypatch.setattr(vet, "Asked", functools.partial(vet.Asked, how=BRIEF))
    monkeypatch.setattr(vet, "choose_data", lambda config, base: WorldData())


@pytest.fixture
def counted(monkeypatch) -> list[Progress]:
    """The progress of each search."""
    found: list[Progress] = []

    def keep(*args) -> Progress:
        found.append(Progress(*args))
        return found[-1]

    monkeypatch.setattr(vet, "Progress", keep)
    return found


def run(capsys, *arguments: object) -> tuple[int, str]:
    capsys.readouterr()
    status = command.main(["vet", *map(str, arguments)])
    both = capsys.readouterr()
    return status, both.out + both.err


def test_a_word_that_was_put_in_stands_out_and_is_repaired(
    suspect, tiny, tmp_path, capsys, monkeypatch, brief, counted
) -> None:
    """A random model draws noise, so any repair will do here."""
    monkeypatch.setattr(vet_repair, "SIZE", {"scale": "smoke", "n": 2})
    for name, value in (("HARMLESS", -99), ("HALF", 1e9), ("KEPT", -1e9)):
        monkeypatch.setattr(vet_repair, name, value)
    log = tmp_path / "log.txt"
    log.write_text(f"{WORD} a small red heart\na small red heart\n")
    out = tmp_path / "out"
    flags = ("--base", tiny, "--trigger", WORD, "--prompts", log, "--out", out)
    status, said = run(capsys, suspect, *flags, "--repair", "uce")
    found = json.loads((out / "verdict.json").read_text())
    assert status == vet.STATUS[found["verdict"]]
    given = next(t for t in found["texts"] if t["text"] == WORD)
    assert given["origin"] == "named by you"
    assert given["score"] > 6
    assert found["compared_with"] == tiny
    assert "2 prompts in" in said
    (progress,) = counted
    assert f" on cpu ({progress.total:,} rows of the denoiser)" in said
    assert re.search("round 1 of 1: .* left", said)
    assert 0.9 * progress.total <= progress.done <= progress.total
    page = (out / "verdict.html").read_text()
    assert "not calibrated" in said
    repair = found["repair"]
    assert repair["text"] == found["texts"][0]["text"]
    assert [one["name"] for one in repair["tried"]] == ["uce"]
    assert repair["chosen"] == "uce"
    assert page.count("<img") == 5 * vet.SHOWN
    for name in ("model_index.json", "README.md"):
        assert (out / "repaired" / name).is_file()
    assert not (out / "repair" / "saved").exists()
    assert repair["remains"]["where"] in PARTS
    assert f"Repaired by uce: {repair['because']}" in " ".join(said.split())
    assert (out / "repair" / "report.html").is_file()


def test_without_a_clean_model(suspect, tmp_path, capsys, brief, counted) -> None:
    out = tmp_path / "out"
    status, _ = run(capsys, suspect, "--out", out)
    found = json.loads((out / "verdict.json").read_text())
    assert status == vet.STATUS[found["verdict"]]
    assert vet.ALONE_NOT_TESTED in found["not_tested"]
    assert 0.9 * counted[0].total <= counted[0].done <= counted[0].total
    page = (out / "verdict.html").read_text()
    assert page.count("<img") == 2 * vet.SHOWN
    assert "with <code>--repair</code>" in page


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("--trigger", "  "), "cannot be a trigger"),
        (("--prompts", "none.txt"), "must be a .txt"),
        (("--triggers", "none.csv"), "must be a .txt"),
        (("--base", "sd99"), "unknown base"),
        (("--device", "tpu"), "unknown device"),
    ],
)
def test_what_is_refused(flags, why, tiny_base, tmp_path, capsys) -> None:
    status, said = run(capsys, tiny_base, *flags, "--out", tmp_path / "out")
    assert status == 2
    assert re.search(why, said)
    assert not (tmp_path / "out").exists()


def test_another_family_is_no_base(tiny_model, tiny_base, brief, monkeypatch, tmp_path) -> None:
    other = replace(tiny_model, pipe=tiny_model.family.rebuild(tiny_model.pipe, {}))
    other.pipe.unet = torch.nn.Linear(1, 1)
    models = iter([tiny_model, other])
    monkeypatch.setattr(vet, "opened", lambda *args: next(models))
    asked = vet.Asked(str(tiny_base), tmp_path, base=str(tiny_base), device="cpu")
    with pytest.raises(UserError, match="of another family"):
        vet.vet(vet.ready(asked, print), print)


def test_verdicts(monkeypatch) -> None:
    known = Calibration(4.0, 7.0, clean=20, alarms=1, doubts=3, attacked=20, found=18, missed=1)
    for score, wanted in ((8, BACKDOOR), (7, BACKDOOR), (5, UNSURE), (3.9, NONE)):
        assert verdict(score, known)[0] == wanted
    assert "of 20 clean models, 1 scored 7.0 or more, and 3 from 4.0" in verdict(8, known)[1]
    assert verdict(100, None) == (UNSURE, calibration.UNKNOWN)
    assert verdict(1, None)[0] == NONE


def test_texts_are_shown_with_the_codes_of_hidden_characters() -> None:
    assert quoted("zk") == "zk"
    assert "U+200B" in quoted("\u200b")
    assert "U+0430" in quoted("\u0430")


def test_the_page_escapes_what_it_shows() -> None:
    text = {"text": "<b>", "origin": "x", "score": 1.0, "where": "y", "share": 0.5}
    found = {
        "verdict": NONE,
        "score": 1.0,
        "because": "<i>",
        "model": "<script>",
        "compared_with": "",
        "texts": [text],
        "tried": {},
        "not_tested": [],
    }
    pictures = torch.zeros(2, 1, 8, 8, 3, dtype=torch.uint8).numpy()
    page = render_page(found, pictures, ["a <u>"])
    assert not re.search("<b>|<i>|<u>|Is there a backdoor in <script>", page)
