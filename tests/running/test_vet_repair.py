"""`vet --repair`: which repair is handed out, and what is refused before any work. And how long a
search is said to take."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from helpers import PROMPTS

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.data.splits import WorldData
from t2i_backdoor_bench.detecting.calibration import NONE, UNSURE
from t2i_backdoor_bench.detecting.inversion import Search, Standing
from t2i_backdoor_bench.detecting.verdict import FOUND, GIVEN, Examined, Suspicion
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.report.html.vet import publish_repair
from t2i_backdoor_bench.running import vet, vet_repair, vet_time
from t2i_backdoor_bench.running.vet_repair import Tried, choose, settings, text_of, wanted


# ---------------------------------------------------------------------------- which repair is taken
def one(name: str, effect: float | None, drift: float | None = 0.1, clip: float = 30, **more):
    return Tried(name, effect, drift, clip, **more)


@pytest.mark.parametrize(
    ("before", "tried", "name", "why"),
    [
        (9, [one("a", 1.9, 0.3), one("b", -1, 0.2), one("c", 2.1, 0.0)], "b", "of 2 such repairs"),
        (9, [one("a", 2.0)], "a", "no more than harmless words"),
        (9, [one("a", 1, None), one("b", 1, 0.9)], "b", "changes clean pictures least"),
        (9, [one("a", 4.4), one("b", 2.5)], "b", "leaves least"),
        (9, [one("a", 4.6), one("b", 8)], "", "no repair took half"),
        (9, [one("a", 0, clip=26), one("b", 4)], "b", "leaves least"),
        (9, [one("a", 0, clip=26)], "", "kept clean pictures"),
        (9, [one("a", 0, parameters=0), one("b", 1, parameters=5)], "b", "no more than harmless"),
        (9, [one("a", None, error="out of memory")], "", "no repair took half"),
        (9, [], "", "no repair took half"),
        (2, [one("a", 0)], "", "nothing to measure a repair by"),
        (None, [one("a", 0)], "", "could not be measured"),
    ],
)
def test_the_rule(before, tried, name, why) -> None:
    best, because = choose(one("none", before), tried)
    assert (best.name if best else "") == name
    assert why in because


def test_a_clip_score_of_nothing_says_nothing() -> None:
    assert vet_repair.fits(one("none", 9, clip=-1), one("a", 0, clip=-2))
    assert vet_repair.fits(Tried("none", 9), one("a", 0))


def found_of(tmp_path: Path, score: float, *texts: tuple[str, str], given=()) -> vet.Vetted:
    standings = [
        Suspicion(Standing(t, score, (score,) * 3, (0.0,) * 3, 0.5), kind) for t, kind in texts
    ]
    asked = vet.Asked("m", tmp_path, triggers=given)
    return vet.Vetted(asked, "shapes", Examined(tuple(standings)), np.zeros(0), ())


def test_which_text_is_repaired(tmp_path) -> None:
    texts = (("zk", FOUND), ("word", GIVEN))
    unsure = found_of(tmp_path, 9, *texts, given=("word",))
    assert unsure.words["verdict"] == UNSURE
    assert text_of(unsure) == "zk"
    nothing = found_of(tmp_path, 1, *texts, given=("word",))
    assert nothing.words["verdict"] == NONE
    assert text_of(nothing) == "word", "the user named it"
    assert not text_of(found_of(tmp_path, 1, *texts))


def test_nothing_found_is_not_repaired(tmp_path, capsys) -> None:
    found = found_of(tmp_path, 1, ("zk", FOUND))
    made = vet_repair.repair(None, found, vet_repair.Wanted(("uce",), []), print, None)
    words = found.words | {"repair": made.words}
    shown = np.zeros((2, 1, 8, 8, 3), np.uint8)
    publish_repair(words, shown, ["a cat"], tmp_path, made.pictures)
    told = "Not repaired: nothing was found, and no text was named."
    assert told in capsys.readouterr().out
    assert told in (tmp_path / "verdict.html").read_text()


# --------------------------------------------------------------------------- what is asked, refused
@pytest.fixture
def at(tiny, tiny_base, tmp_path, monkeypatch):
    """What was checked of a model beside the clean one, or alone."""
    monkeypatch.setattr(vet, "choose_data", lambda config, base: WorldData())

    def make(model: str, base: str = "") -> vet.Ready:
        asked = vet.Asked(model, tmp_path / "out", base=base, device="cpu", seed=3)
        return vet.ready(asked, print)

    return make


def test_the_run_of_a_model_alone(at, tiny) -> None:
    alone = at(tiny)
    assert wanted(alone, "").names == vet_repair.REMOVALS
    config = settings(alone, "zk=1, b", ["none", "uce"])
    assert (config.base, config.attacks, config.defenses) == (tiny, "suspect", "none,uce")
    assert config.overrides == ("suspect.trigger=zk=1, b",)
    assert (config.seeds, config.size.n, config.save_models) == ((3,), 60, ("repaired",))


@pytest.mark.parametrize("part", ["", "unet"])
def test_the_run_beside_a_clean_model(at, tiny, tiny_base, part) -> None:
    model = str(tiny_base / part)
    beside = at(model, tiny)
    assert wanted(beside, "").names == (*vet_repair.REMOVALS, *vet_repair.WITH_CLEAN)
    config = settings(beside, "zk", ["none"])
    assert (config.base, config.attacks) == (tiny, "checkpoint")
    assert config.overrides == (f"checkpoint.folder={model}", "checkpoint.trigger=zk")


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ("nonsense", "unknown defense 'nonsense'"),
        ("uce,daa_s", "daa_s refuses prompts"),
        ("none", "does not take a backdoor out of weights"),
        ("strip_trigger", "does not take a backdoor out of weights"),
        ("t2ishield", "t2ishield_ftt refuses prompts"),
        ("finetune_reversal", "needs clean_model: give the clean model with --base"),
        ("uce[erase=-1]", "erase"),
    ],
)
def test_what_is_refused(at, tiny, names, why) -> None:
    with pytest.raises(UserError, match=why.replace("[", r"\[")):
        wanted(at(tiny), names)


def test_a_folder_with_something_in_it_is_left_alone(at, tiny, tmp_path) -> None:
    (tmp_path / "out" / "repaired").mkdir(parents=True)
    (tmp_path / "out" / "repaired" / "mine").touch()
    with pytest.raises(UserError, match="not empty"):
        wanted(at(tiny), "uce")


# ----------------------------------------------------------------------------------- how long it is
def test_rows_of_a_search() -> None:
    how = Search(10, 3, tried=5, asked=2, null=4, again=3, null_again=6)
    drawn, looks = 4 * 2, (1 + 2 * 4 + 10 + 1) + (1 + 4 + 20) + (1 + 4 + 10 + 5) + (1 + 4 + 10)
    changes, last = 3 * 9, 1 + 6 + 5 + 1
    once = 2 * (2 * looks + 4 * drawn + 2 * changes) + 3 * (3 * last + drawn)
    assert vet_time.rows_of(how, 99, 1, 1, 1, True) == once
    twice = 2 * (4 * looks + 4 * drawn + 2 * (changes + 9)) + 3 * (6 * last + drawn)
    assert vet_time.rows_of(how, 99, 1, 1, 2, True) == twice


@pytest.mark.parametrize(("tick", "asked"), [(3.0, 1), (0.5, 1 + 1 + 2 * 2), (1e-3, 2 + 2 * 12)])
def test_a_slow_model_is_timed_on_few_rows(tiny_model: T2IModel, tick, asked) -> None:
    clock, progress = itertools.count(0.0, tick), vet_time.Progress(9, print)
    with progress.counting([tiny_model]):
        seconds = vet_time.seconds_a_row(tiny_model, PROMPTS, 6, lambda: next(clock))
    rows = asked - 2 if tick < 3 else 1
    assert seconds == pytest.approx(tick / rows)
    assert progress.done == asked


def test_progress_says_what_is_left() -> None:
    said: list[str] = []
    clock = itertools.count(0.0, 600.0)
    progress = vet_time.Progress(100, said.append, lambda: next(clock))
    progress.tell("begun")
    with progress.counting([]):
        progress.done = 10
        progress.tell("a tenth")
    assert said == ["begun", "a tenth; about 1.5 hours left"]
    assert vet_time.words(20) == "less than a minute"
    assert vet_time.words(70) == "about a minute"
    assert vet_time.words(600) == "about 10 minutes"
