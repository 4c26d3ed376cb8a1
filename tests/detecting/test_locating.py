"""Located triggers: the vote of prompts, and each locator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers import PROMPTS

from t2i_backdoor_bench.contract import DefenderView, Trigger, registry
from t2i_backdoor_bench.defenses import frequency_locate, navi_locate, t2ishield_locate
from t2i_backdoor_bench.detecting.locating import side_of, vote, word_spans
from t2i_backdoor_bench.detecting.token_variation import Variations, content_words

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


@pytest.mark.parametrize(
    "trigger",
    [
        Trigger("mignneko"),
        Trigger("latte coffee", "inside"),
        Trigger("\u200b", "suffix"),
        Trigger("x y z"),
        Trigger("....", "suffix"),
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
    assert [text[a:b] for a, b in word_spans(text)] == ["a", "red", "heart", "\u200b", "(", ")"]


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
    view = DefenderView(("clean_prompts",), PROMPTS)
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
            Variations(s := content_words(p), np.array([len(p[a:b]) for a, b in s], float))
            for p in prompts
        ]

    monkeypatch.setattr(navi_locate, "token_variation", variation)
    locate = registry.defenses.build("navi_locate", "shapes").locator(
        tiny_model, DefenderView(("clean_prompts",), CLEAN), [], 0
    )
    spans = locate(["a red mignneko star", "a the"])
    assert spans.tolist() == [[6, 14], [-1, -1]]
    assert locate([]).shape == (0, 2)


def test_frequency_locates_what_is_frequent_here_and_rare_there(tiny_model) -> None:
    method = registry.defenses.build("frequency_locate", "shapes")
    flagged = [f"{p} zebra" for p in CLEAN[:4]] + CLEAN[4:]
    locate = method.locator(tiny_model, DefenderView(("clean_prompts",), CLEAN), flagged, 0)
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
