"""What the run hands to a defender: nothing that its needs do not list can be told from it."""

from __future__ import annotations

from dataclasses import dataclass, fields

import pytest
import torch
from fakes import METRICS, SCALE, FakeAttack, change, records, table

from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract import (
    Backdoor,
    DefenderView,
    Defense,
    Target,
    Trigger,
    UserError,
    registry,
)
from t2i_backdoor_bench.contract.target import STREAM
from t2i_backdoor_bench.running.attacked import attacked
from t2i_backdoor_bench.running.display import Display
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.preflight import check_defense
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.running.view import view
from t2i_backdoor_bench.store.folder import Store

LETTER = Trigger("\u0461", replaces="w")  # a letter that only some prompts have
ALL = ("clean_prompts", "stream")


@dataclass
class LookAlike(FakeAttack):
    """Its trigger replaces a letter."""

    def backdoor(self, model):
        return Backdoor(LETTER, Target("style", style="sepia"))


@dataclass
class StarAttack(FakeAttack):
    """Its trigger replaces the word that its target is about."""

    def backdoor(self, model):
        trigger = Trigger("st\u0430r", replaces="star")
        return Backdoor(trigger, Target("object", source="star", target="heart"))


@dataclass
class Reads(Defense):
    """Reads some clean prompts, and the stream."""

    many: int = 7

    @property
    def needs_prompts(self) -> int:
        return self.many

    def apply(self, model, view, seed):
        view.first(self.many)
        assert len(view.stream) == STREAM
        return model.clone()


@pytest.fixture
def config(tmp_path, tiny, clean_registry):
    registry.register_attack("fake_attack")(FakeAttack)
    registry.register_attack("look_alike")(LookAlike)
    registry.register_attack("star_attack")(StarAttack)
    registry.register_defense("reads", needs=ALL)(Reads)
    registry.register_defense("reads_with", needs=("trigger", *ALL))(Reads)
    names = "fake_attack,look_alike,star_attack"
    return Config(names, "reads", tiny, SCALE, metrics=METRICS, out=tmp_path / "run", workers=1)


@pytest.fixture
def shared(config) -> Shared:
    return Shared(plan(config), Store(config.folder), Display())


def test_who_is_not_given_the_trigger_cannot_tell_it_from_the_prompts(shared) -> None:
    blind = [view(shared, ALL, a, 0) for a in ("fake_attack", "look_alike", "star_attack")]
    assert blind[0].prompts == blind[1].prompts == blind[2].prompts
    assert any("w" not in p for p in blind[1].prompts)
    usual = [p for p in blind[1].stream if LETTER.text not in p]
    assert any("w" not in p for p in usual), "nor from the clean prompts of the stream"
    assert sum(LETTER.text in p for p in blind[1].stream) == STREAM // 5


def test_who_is_given_it_gets_prompts_to_which_it_can_be_added(shared) -> None:
    needs = ("trigger", *ALL)
    assert all("w" in p for p in view(shared, needs, "look_alike", 0).prompts)
    stars = view(shared, needs, "star_attack", 0).prompts
    assert len(stars) >= 100
    assert all("star" in p for p in stars)


def test_a_located_trigger_chooses_by_itself(shared) -> None:
    needs, usual = ("trigger", "clean_prompts"), view(shared, ALL, "look_alike", 0).prompts
    found = view(shared, needs, "look_alike", 0, Trigger("zebra"))
    assert found.prompts == usual, "not by the true one"
    other = view(shared, needs, "star_attack", 0, LETTER)
    assert other.trigger == LETTER
    assert all("w" in p for p in other.prompts)
    assert not all("star" in p for p in other.prompts)


def test_an_undeclared_thing_is_not_even_made(shared) -> None:
    seen = view(shared, (), "fake_attack", 0)
    assert seen._given == {}
    assert not any(key[0] == "defender" for key in shared.made if isinstance(key, tuple))


def test_the_attacked_model_says_nothing_of_its_attack(shared) -> None:
    base = shared.model
    model, _ = attacked(shared, "fake_attack", 0)
    for f in fields(model):
        if f.name not in ("pipe", "_text_layers"):
            assert getattr(model, f.name) == getattr(base, f.name), f.name
    for one, two in zip(model.edited.values(), base.edited.values(), strict=True):
        flags = [[p.requires_grad for p in part.parameters()] for part in (one, two)]
        assert flags[0] == flags[1]
        assert one.training == two.training
        assert not {p.data_ptr() for p in one.parameters()} & {
            p.data_ptr() for p in two.parameters()
        }, "a shared tensor would say what the attack left alone"
    assert set(vars(model.pipe)) == set(vars(base.pipe))


def test_numbers_are_checked_with_the_view_that_is_given(config, shared) -> None:
    fewer = len(view(shared, ("trigger", *ALL), "look_alike", 0).prompts) + 1
    assert fewer <= len(view(shared, ALL, "look_alike", 0).prompts)

    def check(defense: str) -> None:
        asked = change(config, defenses=defense, overrides=(f"{defense}.many={fewer}",))
        own = Shared(plan(asked), shared.store, Display(), models=shared.models)
        (cell,) = (c for c in own.plan.cells if c.attack == "look_alike")
        check_defense(own, cell)

    check("reads")
    with pytest.raises(UserError, match=f"prompts {fewer} is not between"):
        check("reads_with")


def test_what_was_read_stands_in_the_record_and_in_the_tables(config) -> None:
    one = Config(
        "fake_attack", "reads", config.base, SCALE, metrics="asr", out=config.out, workers=1
    )
    assert runner.run(one) == 0
    known = {"clean_prompts": 7, "stream": STREAM}
    (found,) = records(one).values()
    assert found.knowledge == known
    (row,) = table(one)
    assert row["given"] == "7 clean prompts, 160 prompts of a stream"
    Store(one.folder).drop_result(found.cell.key)
    assert runner.run(one) == 0
    (again,) = records(one).values()
    assert again.knowledge == known, "also where the pictures were there already"


def test_a_view_of_a_defense_that_needs_nothing_is_empty() -> None:
    assert DefenderView(()).texts_read == {}


def test_a_clean_text_encoder_is_a_copy_and_no_more_of_the_clean_model(shared) -> None:
    given = view(shared, ("clean_text_encoder",), "fake_attack", 0).clean_text_encoder
    for theirs, own in zip(given, shared.model.encoders, strict=True):
        assert theirs is not own
        assert type(theirs) is type(own)
        for a, b in zip(theirs.parameters(), own.parameters(), strict=True):
            assert torch.equal(a, b)
            assert a.data_ptr() != b.data_ptr()
    model = shared.model.clone(encoders=True)
    put_back = model.with_encoders(given)
    assert put_back.encoders == given
    assert put_back.denoiser is model.denoiser
    assert model.encoders != given
