"""What a defense may see."""

from __future__ import annotations

import numpy as np
import pytest

from t2i_backdoor_bench.contract import (
    NEEDS,
    DefenderView,
    Trigger,
    Undeclared,
    UserError,
    amounts,
    register_defense,
)

GIVEN = {
    "trigger": Trigger("x"),
    "clean_text_encoder": ("an encoder",),
    "clean_pairs": (np.zeros((1, 8, 8, 3), np.uint8), ["a"]),
    "stream": ["x a prompt"],
}


def read(view: DefenderView, need: str) -> object:
    return view.prompts if need == "clean_prompts" else getattr(view, need)


@pytest.mark.parametrize(
    "needs",
    [(), ("trigger",), ("trigger", "clean_model"), ("clean_pairs",), ("clean_prompts",), NEEDS],
)
def test_a_view_gives_what_was_declared_and_nothing_else(needs: tuple[str, ...]) -> None:
    class Model:
        def generate(self) -> None: ...

        def __call__(self) -> None:
            raise AssertionError("a model must be handed over, not called")

    model = Model()
    prompts = ["a prompt"]
    view = DefenderView(needs, prompts, clean_model=model, **GIVEN)
    offered = {"clean_model": model, "clean_prompts": prompts, **GIVEN}
    for name in NEEDS:
        if name in needs:
            assert read(view, name) == offered[name]
        else:
            with pytest.raises(Undeclared, match=name):
                read(view, name)
            with pytest.raises(Undeclared):
                view.first(1) if name == "clean_prompts" else read(view, name)
    hidden = vars(view).values()
    held = [x for v in hidden for x in (v.values() if isinstance(v, dict) else [v])]
    for name in set(NEEDS) - set(needs):
        assert not any(x is offered[name] for x in held), "not even in its private fields"


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
    DefenderView(("clean_prompts",), prompts).prompts.append("c")
    assert prompts == ["a", "b"]


def test_a_defense_gets_the_number_of_prompts_it_asked_for_or_an_error() -> None:
    view = DefenderView(("clean_prompts",), ["a", "b", "c"])
    assert view.first(2) == ["a", "b"]
    assert view.first(3) == ["a", "b", "c"]
    for wrong in (4, 0, -1):
        with pytest.raises(UserError, match=f"prompts {wrong} is not between 1 and the 3"):
            view.first(wrong)


def test_what_counts_as_known_is_what_was_read() -> None:
    prompts, captions = list("abcdef"), ["c", "c"]
    pairs, stream = (np.zeros((2, 8, 8, 3), np.uint8), captions), ["x", "y", "z"]
    needs = ("clean_prompts", "clean_pairs", "stream")
    one = DefenderView(needs, lambda: prompts, clean_pairs=pairs, stream=lambda: stream)
    assert amounts([one]) == {}, "nothing was read"
    one.first(4)
    one.first(2)
    assert amounts([one]) == {"clean_prompts": 4}, "the largest number that was asked for"
    with pytest.raises(UserError):
        one.first(7)
    assert amounts([one]) == {"clean_prompts": 4}, "an error gives nothing"
    two = DefenderView(needs, ["a", "x", "y"], clean_pairs=pairs, stream=stream)
    assert (len(two.prompts), len(two.clean_pairs[1]), len(two.stream)) == (3, 2, 3)
    both = {"clean_prompts": 6, "clean_pairs": 2, "stream": 3}
    assert amounts([one, two]) == both, "of two pools, every prompt once"
    assert amounts([]) == {}


def test_unknown_needs_are_an_error() -> None:
    with pytest.raises(ValueError, match="budget"):
        DefenderView(("budget",), [])
    with pytest.raises(ValueError, match="budget"):
        register_defense("x", needs=("budget",))


def test_undeclared_is_not_a_user_error() -> None:
    assert not issubclass(Undeclared, UserError)
    assert issubclass(Undeclared, PermissionError)
