"""A method that is defined again, as when a cell of a notebook runs twice, replaces the first."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from fakes import FakeAttack

import t2i_backdoor_bench
from t2i_backdoor_bench.contract import Defense, register_attack, register_defense


def define_defense(by: float) -> type[Defense]:
    """The same class body under the same name each time, with another default."""

    @register_defense("typed_again")
    @dataclasses.dataclass
    class TypedAgain(Defense):
        shift: float = by

        def apply(self, model, view, seed):
            repaired = model.clone()
            with torch.no_grad():
                repaired.denoiser.conv_out.bias += self.shift
            return dataclasses.replace(repaired, info={"steps": round(100 * self.shift)})

    return TypedAgain


@pytest.fixture
def run(clean_registry, tiny, tmp_path):
    register_attack("fake_attack")(FakeAttack)

    def make() -> dict[str, object]:
        table = t2i_backdoor_bench.run(
            attacks="fake_attack",
            defenses="typed_again",
            base=tiny,
            scale="smoke",
            n=4,
            metrics="drift",
            out=tmp_path / "run",
        )
        (row,) = table.to_dict("records")
        return row

    return make


def test_a_class_that_is_defined_again_replaces_the_first(run) -> None:
    first = define_defense(0.25)
    before = run()
    second = define_defense(0.75)
    assert first is not second
    assert (first.__module__, first.__qualname__) == (second.__module__, second.__qualname__)
    after = run()
    assert (before["status"], after["status"]) == ("done", "done")
    assert (before["steps"], after["steps"]) == (25, 75)
    assert before["drift"] != after["drift"], "other numbers are another cell"
    define_defense(0.25)
    assert run()["drift"] == before["drift"], "and the first is still stored"


def test_a_class_of_another_place_does_not_replace_it(clean_registry) -> None:
    define_defense(0.25)

    @dataclasses.dataclass
    class Other(Defense):
        pass

    with pytest.raises(ValueError, match="'typed_again' is already registered"):
        register_defense("typed_again")(Other)
