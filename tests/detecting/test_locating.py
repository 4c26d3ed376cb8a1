"""Localization: the vote of prompts, each locator, the stream, and compositions in which a located
trigger stands for the true one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest
from fakes import METRICS, SCALE, FakeAttack, change, records, table
from helpers import PROMPTS

from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract import DefenderView, Samples, Trigger, UserError, registry
from t2i_backdoor_bench.data.perturbations import decoy
from t2i_backdoor_bench.data.splits import STREAM, WorldData, prompt_stream
from t2i_backdoor_bench.defenses import frequency_locate, navi_locate, t2ishield_locate
from t2i_backdoor_bench.detecting.locating import Locator, side_of, vote, word_spans
from t2i_backdoor_bench.detecting.word_variation import Words, content_words
from t2i_backdoor_bench.metrics.location import LocationPrecision, LocationRecall
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.settings import Config

CLEAN = [
    f"a {size} {color} {shape} on a gray background"
    for size in ("small", "large")
    for color in ("red", "blue")
    for shape in ("star", "ring")
]


def find(prompts: list[str], word: str) -> np.ndarray:
    """Spans of a word, or of the first word where it is not there."""
    return np.array(
        [(p.index(word), p.index(word) + len(word)) if word in p else (0, 1) for p in prompts]
    )


# --------------------------------------------------------------------------------------------- vote
@pytest.mark.parametrize(
    "trigger",
    [
        Trigger("mignneko"),
        Trigger("latte coffee", "inside"),
        Trigger("\u200b", "suffix"),
        Trigger("x y z"),
    ],
)
def test_prompts_agree_on_the_whole_trigger_and_its_place(trigger: Trigger) -> None:
    flagged = [trigger.add(p) for p in CLEAN[:5]] + CLEAN[5:]
    first = trigger.text.split(" ")[0]
    assert vote(flagged, find(flagged, first), CLEAN) == trigger


def test_no_vote_for_what_is_usual_or_rare() -> None:
    flagged = [f"zebra {p}" for p in CLEAN[:2]] + CLEAN[2:]
    assert vote(flagged, find(flagged, "zebra"), CLEAN) is None, "two prompts are too few"
    assert vote(CLEAN, find(CLEAN, "background"), CLEAN) is None, "clean prompts hold it as often"
    assert vote(flagged, np.full((len(flagged), 2), -1), CLEAN) is None


def test_a_neighbour_that_varies_is_no_part_of_the_trigger() -> None:
    flagged = [f"{n} zebra {p}" for n, p in zip("abcdefgh", CLEAN, strict=True)]
    assert vote(flagged, find(flagged, "zebra"), CLEAN) == Trigger("zebra", "inside")


def test_places_and_spans() -> None:
    assert [side_of(0, 4), side_of(2, 4), side_of(4, 4)] == ["prefix", "inside", "suffix"]
    text = 'a "red" heart, \u200b ( )'
    assert [text[a:b] for a, b in word_spans(text)] == ["a", "red", "heart", "\u200b"]


# ----------------------------------------------------------------------------------------- locators
def test_binary_search_ends_at_the_word_that_makes_the_picture(tiny_model, monkeypatch) -> None:
    drawn: list[str] = []

    def pictures(model, encoder, prompts, seed):
        drawn.extend(prompts)
        return np.array(
            [[1.0, 0.0] if "zebra" in p else [0.6, 0.8] if p else [0.0, 1.0] for p in prompts]
        )

    monkeypatch.setattr(t2ishield_locate, "pictures", pictures)
    for asked in ("zebra a red star on blue", "a red zebra star", "a red star zebra", "zebra"):
        ((a, b),) = t2ishield_locate.search(tiny_model, None, [asked], 0.9, 0)
        assert asked[a:b] == "zebra"
    drawn.clear()
    spans = t2ishield_locate.search(
        tiny_model, None, ["one two three four zebra six seven eight", "a red star"], 0.9, 0
    )
    assert len(spans) == 2
    assert len(drawn) <= 2 + 2 * (3 + 2), "one halving a round"


def test_binary_search_finds_nothing_where_no_half_makes_the_picture(
    tiny_model, monkeypatch
) -> None:
    axes = np.eye(64)
    known: dict[str, int] = {}
    monkeypatch.setattr(
        t2ishield_locate,
        "pictures",
        lambda m, e, prompts, s: np.stack([axes[known.setdefault(p, len(known))] for p in prompts]),
    )
    assert t2ishield_locate.search(tiny_model, None, ["a red star"], 0.8, 0).tolist() == [[-1, -1]]


def test_the_threshold_is_what_clean_halves_rarely_reach(tiny_model, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(
        t2ishield_locate, "search", lambda model, encoder, prompts, limit, seed: seen.append(limit)
    )
    method = registry.defenses.build("t2ishield_locate", "shapes", {"calibration": 3})
    view = DefenderView((), PROMPTS)
    method.locator(tiny_model, view, [], 0)([])
    encoder = t2ishield_locate.load_encoder("shapes")
    sims = []
    for p in PROMPTS:
        whole, *halves = (
            t2ishield_locate.pictures(tiny_model, encoder, [t], 0)
            for t in (p, *t2ishield_locate.split(p, 0, len(word_spans(p))))
        )
        sims.append(max(float((whole * h).sum()) for h in halves))
    assert seen == [pytest.approx(max(sims))]
    replace(method, similarity=0.8).locator(tiny_model, view, [], 0)([])
    assert seen[1] == 0.8


def test_navi_locates_the_word_with_the_largest_variation(tiny_model, monkeypatch) -> None:
    def variation(model, prompts, seed):
        return [
            Words(s := content_words(p), np.array([len(p[a:b]) for a, b in s], float))
            for p in prompts
        ]

    monkeypatch.setattr(navi_locate, "word_variation", variation)
    locate = registry.defenses.build("navi_locate", "shapes").locator(
        tiny_model, DefenderView((), CLEAN), [], 0
    )
    spans = locate(["a red mignneko star", "a the"])
    assert spans.tolist() == [[6, 14], [-1, -1]]
    assert locate([]).shape == (0, 2)


def test_frequency_locates_what_is_frequent_here_and_rare_there(tiny_model) -> None:
    method = registry.defenses.build("frequency_locate", "shapes")
    flagged = [f"{p} zebra" for p in CLEAN[:4]] + CLEAN[4:]
    locate = method.locator(tiny_model, DefenderView((), CLEAN), flagged, 0)
    asked = ["a zebra star", "a red ring"]
    assert [asked[i][a:b] if a >= 0 else "" for i, (a, b) in enumerate(locate(asked))] == [
        "zebra",
        "",
    ]


def test_frequency_takes_only_words_that_move_the_model(tiny_model, monkeypatch) -> None:
    method = registry.defenses.build("frequency_locate", "shapes", {"decoys": 3, "tried": 2})
    flagged, factor = [f"{p} zebra" for p in CLEAN], {"zebra": 9.0}

    def predictions(model, prompts, times, latents):
        assert latents.shape[:2] == (len(times), 2)
        values = [
            factor["zebra"] if "zebra" in p else 0.0 if p in CLEAN else float(len(p) % 5) + 1
            for p in prompts
        ]
        return frequency_locate.torch.tensor(values)

    monkeypatch.setattr(frequency_locate, "predictions", predictions)
    assert method.accepts(tiny_model, Trigger("zebra"), flagged, 0)
    assert not method.accepts(
        tiny_model, Trigger("zebra yak"), [f"zebra, yak, {p}" for p in CLEAN], 0
    ), "no prompt holds it as written"
    factor["zebra"] = 0.5
    assert not method.accepts(tiny_model, Trigger("zebra"), flagged, 0)


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
    view = DefenderView(("stream",), CLEAN, stream=stream)
    found = Last(suspects=5).apply(replace(tiny_model, screen=lambda p: "zebra" in p), view, 0)
    assert searched == [stream[:5]]
    assert found.located == Trigger("zebra", "suffix")
    assert found.screen is None
    assert found.locate(["a star"]).tolist() == [[2, 6]]
    assert Last(suspects=14).apply(tiny_model, view, 0).located == Trigger("zebra", "suffix")
    assert Last().apply(replace(tiny_model, screen=lambda p: False), view, 0).located is None
    assert tiny_model.locate is tiny_model.located is None


# ----------------------------------------------------------------------------------- stream, decoys
def test_the_stream_is_disjoint_and_a_fifth_is_triggered() -> None:
    data, trigger = WorldData(), Trigger("mignneko", "suffix")
    taken = [p.text for p in data.prompts("defender", 100, 0)]
    for source in ("", "star"):
        stream = prompt_stream(data, trigger, source, taken, 0)
        assert (
            stream
            == prompt_stream(data, trigger, source, taken, 0)
            != prompt_stream(data, trigger, source, taken, 1)
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
        prompt_stream(data, Trigger("\u0435", replaces="\u00e9"), "", [], 0)


def test_decoys_have_the_length_of_the_trigger_and_its_place() -> None:
    rng = np.random.default_rng(0)
    out = decoy(Trigger("latte coffee", "inside"), "a red star", rng)
    assert [len(w) for w in out.split(" ")] == [1, 5, 6, 3, 4]
    assert "latte" not in out
    assert len(decoy(Trigger("\u200b"), "a star", rng).split(" ")[0]) == 4
    assert len({decoy(Trigger("abcdef"), "a star", rng) for _ in range(5)}) == 5


# ------------------------------------------------------------------------------------ metrics, runs
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
    assert LocationPrecision().compute(samples(spans[2:]), None).value is None


@dataclass
class FakeLocator:
    """Locates a word of its choice."""

    word: str = "zebra"

    def apply(self, model, view, seed):
        assert any("mignneko" in p for p in view.stream)
        found = Trigger(self.word, "suffix") if self.word else None
        return replace(
            model, locate=lambda prompts: np.array([(0, 8)] * len(prompts)), located=found
        )


@dataclass
class Reader:
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
    for defense in planned.defenses:
        assert planned.needs(defense) == ("stream",), "blind"
