"""What follows from a located trigger: streams, metrics, compositions."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest
from fakes import METRICS, SCALE, FakeAttack, change, records, table

from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract import (
    STREAM,
    DefenderView,
    Defense,
    Samples,
    Seen,
    Trigger,
    UserError,
    registry,
)
from t2i_backdoor_bench.data.decoys import random_letters
from t2i_backdoor_bench.data.splits import WorldData, prompt_stream
from t2i_backdoor_bench.detecting.locating import Locator, word_spans
from t2i_backdoor_bench.metrics.location import LocationPrecision, LocationRecall, TriggerAccepted
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.settings import Config

CLEAN = [
    f"a {size} {color} {shape} on a gray background"
    for size in ("small", "large")
    for color in ("red", "blue")
    for shape in ("star", "ring")
]


def test_a_locator_searches_what_the_detector_flags_and_takes_it_off(tiny_model) -> None:
    searched = []

    @dataclass
    class Last(Locator):
        """Locates the last word."""

        def locator(self, model, view, flagged, seed):
            assert model.screen is None

            def locate(prompts):
                searched.append(list(prompts))
                return np.array([word_spans(p)[-1] for p in prompts])

            return locate

    stream = [f"{p} zebra" for p in CLEAN[:6]] + CLEAN
    view = DefenderView(("clean_prompts", "stream"), CLEAN, stream=stream)
    found = Last(suspects=5).apply(replace(tiny_model, screen=lambda p: "zebra" in p), view, 0)
    assert searched == [stream[:5]]
    assert found.located == Trigger("zebra", "suffix")
    assert found.screen is None
    assert found.locate(["a star"]).tolist() == [[2, 6]]
    assert Last(suspects=14).apply(tiny_model, view, 0).located == Trigger("zebra", "suffix")
    assert Last().apply(replace(tiny_model, screen=lambda p: False), view, 0).located is None
    assert tiny_model.locate is tiny_model.located is None


def test_the_stream_is_disjoint_and_a_fifth_is_triggered() -> None:
    data, trigger = WorldData(), Trigger("mignneko", "suffix")
    taken = [p.text for p in data.prompts("defender", 100, 0)]
    for source in ("", "star"):
        stream = prompt_stream(data, trigger, source, taken, 0, Seen())
        assert (
            stream
            == prompt_stream(data, trigger, source, taken, 0, Seen())
            != prompt_stream(data, trigger, source, taken, 1, Seen())
        )
        hit = [p.removesuffix(" mignneko") for p in stream if "mignneko" in p]
        assert (len(stream), len(hit)) == (STREAM, 32)
        assert len({p.removesuffix(" mignneko") for p in stream}) == STREAM
        assert all(source in p for p in hit)
        assert not set(hit + stream) & {
            *taken,
            *(p.text for p in data.prompts("evaluation", 200, 0)),
        }
    assert 20 < np.mean([i for i, p in enumerate(stream) if "mignneko" in p]) < 140, "mixed"
    with pytest.raises(UserError, match="too few"):
        prompt_stream(data, Trigger("\u0435", replaces="\u00e9"), "", [], 0, Seen())


def test_random_letters_have_the_length_of_the_trigger_and_its_place() -> None:
    rng = np.random.default_rng(0)
    out = random_letters(Trigger("latte coffee", "inside"), "a red star", rng)
    assert [len(w) for w in out.split(" ")] == [1, 5, 6, 3, 4]
    assert "latte" not in out
    assert len(random_letters(Trigger("\u200b"), "a star", rng).split(" ")[0]) == 4
    assert len({random_letters(Trigger("abcdef"), "a star", rng) for _ in range(5)}) == 5


def samples(spans) -> Samples:
    trigger = Trigger("latte coffee")
    from t2i_backdoor_bench.contract import Backdoor, Prompt, Target

    prompts = [Prompt("a red star"), Prompt("one ring"), Prompt("a moon"), Prompt("more")]
    empty = np.zeros((0, 8, 8, 3), np.uint8)
    return Samples(
        prompts,
        prompts,
        Backdoor(trigger, Target("style", style="sepia")),
        {},
        {},
        empty,
        spans=spans,
        located=trigger,
    )


def test_location_precision_and_recall() -> None:
    spans = np.array([[0, 5], [0, 16], [-1, -1]])  # "latte", "latte coffee one", nothing
    precision, recall = (
        m().compute(samples(spans), None) for m in (LocationPrecision, LocationRecall)
    )
    assert precision.each == [1.0, pytest.approx(2 / 3)]
    assert recall.each == [0.5, 1.0, 0.0]
    assert "'latte coffee' as prefix" in recall.note
    assert LocationRecall().compute(samples(None), None).value is None
    accepted = TriggerAccepted().compute(samples(spans), None)
    assert (accepted.value, accepted.each) == (1, [True])
    assert "latte coffee" in accepted.note
    nothing = replace(samples(spans), located=None)
    assert TriggerAccepted().compute(nothing, None).value == 0
    assert TriggerAccepted().compute(samples(None), None).value is None
    assert LocationPrecision().compute(samples(spans[2:]), None).value is None


@dataclass
class FakeLocator(Defense):
    """Locates a word of its choice."""

    word: str = "zebra"

    def apply(self, model, view, seed):
        assert any("mignneko" in p for p in view.stream)
        found = Trigger(self.word, "suffix") if self.word else None
        return replace(
            model, locate=lambda prompts: np.array([(0, 8)] * len(prompts)), located=found
        )


@dataclass
class Reader(Defense):
    """Remembers the trigger that it is given."""

    def apply(self, model, view, seed):
        SEEN.append(view.trigger)
        return model.clone()


SEEN: list[Trigger] = []


@pytest.fixture
def config(tmp_path, tiny, clean_registry):
    SEEN.clear()
    registry.register_attack("fake_attack")(FakeAttack)
    registry.register_defense("fake_locator", needs=("stream",), gives=("trigger",), locates=True)(
        FakeLocator
    )
    registry.register_defense("fake_reader", needs=("trigger",))(Reader)
    metrics = f"{METRICS},location_precision,location_recall"
    return Config(
        "fake_attack",
        "fake_locator+fake_reader",
        tiny,
        SCALE,
        metrics=metrics,
        out=tmp_path / "run",
        workers=1,
    )


def test_a_located_trigger_stands_for_the_true_one(config) -> None:
    assert runner.run(config) == 0
    assert [Trigger("zebra", "suffix")] == SEEN
    assert table(config)[0]["needs"] == "stream"
    (result,) = records(config).values()
    assert result.scores["location_recall"].value == result.scores["location_precision"].value == 1
    assert "zebra" in result.scores["location_recall"].note
    runner.run(change(config, overrides=("fake_locator.word=",)))
    assert [Trigger("zebra", "suffix")] == SEEN, (
        "without a located trigger the true one is not given instead"
    )
    runner.run(change(config, defenses="fake_reader+fake_locator"))
    assert SEEN[1].text == "mignneko"
    assert table(config)[0]["needs"] == "trigger stream"


def test_named_compositions(config) -> None:
    kind = registry.defenses
    assert kind.select("t2ishield") == ["t2ishield_ftt+t2ishield_locate+uce_phrase"]
    assert kind.select("t2ishield+skdcag,none") == [
        "t2ishield_ftt+t2ishield_locate+uce_phrase+skdcag",
        "none",
    ]
    assert set(kind.select("blind")) == {
        parts for parts, groups in kind.compositions.values() if "blind" in groups
    }
    assert set(kind.select("blind")) <= set(kind.select("all"))
    assert Counter(kind.select("all")).most_common(1)[0][1] == 1
    with pytest.raises(UserError, match="did you mean"):
        kind.select("blind_skdca")
    with pytest.raises(ValueError, match="already"):
        kind.compose("none", "skd+skd")
    planned = plan(change(config, defenses="blind", metrics="asr"))
    needs = {defense: planned.needs(defense) for defense in planned.defenses}
    assert needs.pop("invert_trigger+trace_mend") == ("clean_prompts",), "no traffic"
    assert set(needs.values()) == {("clean_prompts", "stream")}, "blind"
