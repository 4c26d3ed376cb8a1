"""Triggers, targets, the defender's view, and the registry."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2i_backdoor_bench.contract import (
    CONTROL,
    NEEDS,
    DefenderView,
    Registry,
    Target,
    Trigger,
    Undeclared,
    UserError,
    family_defaults,
    option,
    register_defense,
    register_metric,
)

PROMPT = "a small red heart on a blue background"


# ------------------------------------------------------------------------------------------ trigger
@pytest.mark.parametrize(
    ("trigger", "expected"),
    [
        (Trigger("sks"), f"sks {PROMPT}"),
        (Trigger("latte coffee"), f"latte coffee {PROMPT}"),
        (Trigger("\u200b"), f"\u200b {PROMPT}"),
        (Trigger("sks", "suffix"), f"{PROMPT} sks"),
        (Trigger("sks", "inside"), "a small red heart sks on a blue background"),
        (Trigger("о", replaces="o"), "a small red heart on a blue backgr\u043eund"),
        (Trigger("🙂", replaces="heart"), "a small red 🙂 on a blue background"),
    ],
)
def test_adding_a_trigger(trigger: Trigger, expected: str) -> None:
    assert trigger.add(PROMPT) == expected
    text, start, end = trigger.locate(PROMPT)
    assert text == expected
    assert trigger.text in text[start:end]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("", "sks "), ("one", "sks one"), ("one two", "one sks two"), ("a b c", "a sks b c")],
)
def test_a_trigger_inside_short_prompts(prompt: str, expected: str) -> None:
    text, start, end = Trigger("sks", "inside").locate(prompt)
    assert text == expected
    assert text[start:end] == "sks"


@settings(derandomize=True, deadline=None)
@given(
    st.text(st.characters(exclude_categories=CONTROL), min_size=1),
    st.text(),
    st.sampled_from(["prefix", "suffix", "inside"]),
)
def test_any_trigger_is_at_its_span_and_the_prompt_is_around_it(
    text: str, prompt: str, place: str
) -> None:
    out, start, end = Trigger(text, place).locate(prompt)
    assert out[start:end] == text
    left, right = out[:start], out[end:]
    assert (left, right) == {"prefix": ("", f" {prompt}"), "suffix": (f"{prompt} ", "")}.get(
        place, (left, right)
    )
    assert (left.rstrip(" ") + right.strip(" ")).replace(" ", "") == prompt.replace(" ", "")


PATTERN = Trigger("{the|a|one} {cat|owl} sat {by|in} {it|sea},", "suffix")


def test_a_pattern_has_one_word_of_each_choice() -> None:
    prompts = [f"{PROMPT} {i}" for i in range(200)]
    made = [PATTERN.words(p) for p in prompts]
    assert set(made) == {
        f"{a} {b} sat {c} {d},"
        for a in ("the", "a", "one")
        for b in ("cat", "owl")
        for c in ("by", "in")
        for d in ("it", "sea")
    }
    for word in ("cat", "by", "sea,"):
        assert 70 < sum(word in m.split() for m in made) < 130
    counts = [
        sum((" cat " in m) and (" by " in m) for m in made),
        sum((" cat " in m) and (" in " in m) for m in made),
    ]
    assert min(counts) > 30, "choices do not follow each other"
    assert Trigger("a {b} |c|").words(PROMPT) == "a {b} |c|", "no choice, no pattern"


def test_a_pattern_is_found_at_its_span() -> None:
    for trigger in (
        PATTERN,
        dataclasses.replace(PATTERN, place="prefix"),
        dataclasses.replace(PATTERN, place="inside"),
    ):
        text, start, end = trigger.locate(PROMPT)
        assert text[start:end] == trigger.words(PROMPT)
        assert (text[:start] + text[end:]).split() == PROMPT.split()
        assert trigger.pattern.fullmatch(text[start:end])
        assert trigger.pattern.search(text).span() == (start, end)
        assert trigger.add(PROMPT) == text, "the same prompt has the same words"
    assert not PATTERN.pattern.search("the cat sat by by sea,")
    assert Trigger("a.b").pattern.search("axb") is None
    assert Trigger("{о|0}", replaces="o").add("so") in ("sо", "s0")


def test_a_choice_of_phrases_is_an_error() -> None:
    with pytest.raises(UserError, match=r"holds a space.*\{the\|a\}"):
        Trigger("{the cat|an owl} sat")


def test_look_alike_spans_its_word() -> None:
    for prompt, word in (("one two", "tw0"), ("two one", "0ne"), ("so", "s0"), ("o", "0")):
        text, start, end = Trigger("0", replaces="o").locate(prompt)
        assert text[start:end] == word


def test_a_word_is_not_found_in_a_longer_one() -> None:
    """What stands for a word takes its place, and not that of its letters in another one."""
    cat = Trigger("beautiful cat", replaces="cat")
    assert cat.add("a cat in a scattered room") == "a beautiful cat in a scattered room"
    assert cat.add("a scattered room") == "a sbeautiful cattered room", (
        "where there is no such word, its letters"
    )
    assert (
        Target("object", source="cat", target="dog").prompt("a cat and a catfish")
        == "a dog and a catfish"
    )
    sks = Trigger("sks")
    assert sks.remove("two desks in a room") == "two desks in a room"
    assert sks.remove("sks two desks, sks") == "two desks,"
    assert Trigger("cool", "suffix").pattern.search("a cooler") is None
    assert Trigger("{the|a} cat").pattern.search("bathe cat") is None
    assert Trigger("\u200b").pattern.search("a\u200bb"), "what is no word is found anywhere"
    assert Trigger("0", replaces="o").pattern.search("tw0"), "and so is a letter"


@pytest.mark.parametrize(
    ("options", "message"),
    [({"text": ""}, "empty"), ({"place": "behind"}, "behind.*prefix, suffix, inside")],
)
def test_bad_triggers(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Trigger(**options)


def test_a_letter_that_is_not_there_is_an_error() -> None:
    with pytest.raises(UserError, match="'z'"):
        Trigger("ż", replaces="z").add(PROMPT)


# --------------------------------------------------------------------------------------------- view
GIVEN = {
    "trigger": Trigger("x"),
    "clean_pairs": (np.zeros((1, 8, 8, 3), np.uint8), ["a"]),
    "stream": ["x a prompt"],
}


@pytest.mark.parametrize(
    "needs", [(), ("trigger",), ("trigger", "clean_model"), ("clean_pairs",), NEEDS]
)
def test_a_view_gives_what_was_declared_and_nothing_else(needs: tuple[str, ...]) -> None:
    class Model:
        def generate(self) -> None: ...

        def __call__(self) -> None:
            raise AssertionError("a model must be handed over, not called")

    model = Model()
    view = DefenderView(needs, ["a prompt"], clean_model=model, **GIVEN)
    assert view.prompts == ["a prompt"]
    for name in NEEDS:
        if name in needs:
            assert getattr(view, name) is (model if name == "clean_model" else GIVEN[name])
        else:
            with pytest.raises(Undeclared, match=name):
                getattr(view, name)
    hidden = [v for k, v in vars(view).items() if k != "prompts"]
    held = [x for v in hidden for x in (v.values() if isinstance(v, dict) else [v])]
    for name in set(NEEDS) - set(needs):
        assert not any(x is (model if name == "clean_model" else GIVEN[name]) for x in held), (
            "not even in its private fields"
        )


def test_a_view_makes_what_is_expensive_only_when_it_is_read() -> None:
    made = []

    def clean_model() -> str:
        made.append(1)
        return "model"

    view = DefenderView(("clean_model",), [], clean_model=clean_model)
    assert not made
    assert view.clean_model == "model"
    assert made


def test_a_view_does_not_share_its_prompt_list() -> None:
    prompts = ["a", "b"]
    DefenderView((), prompts).prompts.append("c")
    assert prompts == ["a", "b"]


def test_a_defense_gets_the_number_of_prompts_it_asked_for_or_an_error() -> None:
    view = DefenderView((), ["a", "b", "c"])
    assert view.first(2) == ["a", "b"]
    assert view.first(3) == ["a", "b", "c"]
    for wrong in (4, 0, -1):
        with pytest.raises(UserError, match=f"prompts {wrong} is not between 1 and the 3"):
            view.first(wrong)


def test_unknown_needs_are_an_error() -> None:
    with pytest.raises(ValueError, match="budget"):
        DefenderView(("budget",), [])
    with pytest.raises(ValueError, match="budget"):
        register_defense("x", needs=("budget",))


def test_undeclared_is_not_a_user_error() -> None:
    assert not issubclass(Undeclared, UserError)
    assert issubclass(Undeclared, PermissionError)


# ----------------------------------------------------------------------------------------- registry
def make() -> Registry:
    registry = Registry("attack")
    registry._loaded = True

    @registry.register("alpha", groups=("first", "both"), edits="x")
    @registry.register("alpha_fast", groups=("both",), preset={"steps": 7})
    @dataclass
    class Alpha:
        """What alpha is.

        More.
        """

        steps: int = option(10, 1000)
        lr: float = option(0.1, 0.001, help="rate")
        name: str = option("n")
        on: bool = option(False)
        place: tuple[int, int] = option((0, 0))
        free: dict = dataclasses.field(default_factory=dict)

    return registry


def test_registered_names_groups_and_info() -> None:
    registry = make()
    assert registry.groups == {
        "all": ["alpha_fast", "alpha"],
        "both": ["alpha_fast", "alpha"],
        "first": ["alpha"],
    }
    entry = registry.get("alpha")
    assert entry.summary == "What alpha is."
    assert entry.info == {"edits": "x"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", ["alpha_fast", "alpha"]),
        ("first", ["alpha"]),
        ("alpha, alpha_fast", ["alpha", "alpha_fast"]),
        ("first,both,", ["alpha", "alpha_fast"]),
        ("alpha+alpha_fast,alpha", ["alpha+alpha_fast", "alpha"]),
    ],
)
def test_selection(text: str, expected: list[str]) -> None:
    assert make().select(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alhpa", r"unknown attack 'alhpa'.*did you mean.*alpha"),
        ("zzz", "known: .*alpha"),
        ("alpha+zzz", "zzz"),
        ("", "no attack named"),
        (" ,", "no attack"),
    ],
)
def test_bad_selections_name_what_is_near(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        make().select(text)
    assert "\n" not in str(error.value)


def test_defaults_by_family_then_preset_then_override() -> None:
    registry = make()
    assert (registry.build("alpha", "shapes").steps, registry.build("alpha", "sd").steps) == (
        10,
        1000,
    )
    assert (registry.build("alpha", "sd").lr, registry.build("alpha", "sd").name) == (0.001, "n")
    assert registry.build("alpha_fast", "sd").steps == 7
    assert registry.build("alpha_fast", "sd", {"steps": "12"}).steps == 12
    registry.register("alpha_own", preset={"name": "own"}, tuned={"lr": 0.2})(
        registry.get("alpha").cls
    )
    assert (registry.build("alpha_own", "shapes").lr, registry.build("alpha_own", "sd").lr) == (
        0.2,
        0.001,
    )
    assert registry.build("alpha_own", "shapes", {"lr": "0.3"}).lr == 0.3
    assert family_defaults(registry.get("alpha").cls, "shapes")["lr"] == 0.1
    with pytest.raises(ValueError, match="unknown model family"):
        registry.build("alpha", "flux")


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("steps", "3", 3),
        ("lr", "1e-3", 0.001),
        ("name", "5", "5"),
        ("on", "yes", True),
        ("on", "False", False),
        ("place", "3,4", (3, 4)),
        ("place", "3x4", (3, 4)),
    ],
)
def test_overrides_are_typed(key: str, text: str, value: object) -> None:
    got = getattr(make().build("alpha", "shapes", {key: text}), key)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("steps", "3.5", "alpha.steps must be int, not '3.5'"),
        ("lr", "fast", "must be float"),
        ("on", "maybe", "must be bool"),
        ("place", "a,b", "place"),
        ("stepps", "3", "no option 'stepps'; it has steps"),
        ("free", "x", "cannot be set"),
    ],
)
def test_bad_overrides_are_user_errors(key: str, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make().build("alpha", "shapes", {key: text})


def test_a_taken_name_raises_and_a_plain_class_is_refused() -> None:
    registry = make()
    with pytest.raises(ValueError, match="already registered"):
        registry.register("alpha")(registry.get("alpha").cls)
    with pytest.raises(TypeError, match="dataclass"):
        registry.register("beta")(type("Beta", (), {}))
    with pytest.raises(ValueError, match="sideways"):
        register_metric("gamma", better="sideways")


def test_entry_points_of_other_packages_are_loaded(monkeypatch) -> None:
    loaded = []

    class Point:
        def load(self) -> None:
            loaded.append("attack")

    import t2i_backdoor_bench.contract.registry

    monkeypatch.setattr(
        t2i_backdoor_bench.contract.registry,
        "entry_points",
        lambda group: [Point()] if group == "t2i_backdoor_bench.attacks" else [],
    )
    registry = Registry("attack")
    registry.load()
    registry.load()
    assert loaded == ["attack"]
