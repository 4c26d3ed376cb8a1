"""Which network gives the second opinion, and what is said where there is none."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from samples import saved  # noqa: F401 - a fixture
from shifts import config, methods  # noqa: F401 - fixtures

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.embedded import SCORER
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.scoring import scorer as module
from t2i_backdoor_bench.scoring.scorer import SECOND_VARIABLE, load_second, second_scorer


@pytest.fixture(autouse=True)
def unset(monkeypatch) -> None:
    monkeypatch.delenv(SECOND_VARIABLE, raising=False)


def test_the_embedded_base_has_its_own(saved, monkeypatch):
    monkeypatch.setattr(module, "SECOND_SCORER", saved[0])
    assert second_scorer(str(SCORER)) == str(saved[0])
    assert load_second(str(SCORER)).name == "tiny"
    assert second_scorer("ViT-L-14:openai") == "", "no other base has it"
    monkeypatch.setattr(module, "SECOND_SCORER", saved[0] / "nowhere")
    assert second_scorer(str(SCORER)) == ""
    assert load_second(str(SCORER)) is None


def test_a_user_may_name_one(saved, tmp_path, monkeypatch):
    monkeypatch.setenv(SECOND_VARIABLE, str(saved[0]))
    assert load_second("ViT-L-14:openai").name == "tiny"
    with pytest.raises(UserError, match="names the scorer itself"):
        load_second(str(saved[0]))
    monkeypatch.setenv(SECOND_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(UserError):
        load_second(str(SCORER))


def test_cells_have_its_kid_where_there_is_one_and_again_where_it_is_another(
    saved, config, tmp_path, monkeypatch
):
    config = replace(config, metrics="kid,kid_second")

    def of(plan_):
        return plan_.metrics_of(plan_.cells[0].attack, "none"), plan_.metric_key("kid_second")

    without, first = of(plan(config))
    assert without == ["kid"]
    monkeypatch.setenv(SECOND_VARIABLE, str(saved[0]))
    found, second = of(plan(config))
    assert found == ["kid", "kid_second"]
    other = tmp_path / "other"
    shutil.copytree(saved[0], other)
    (other / "note.json").write_text("{}")
    monkeypatch.setenv(SECOND_VARIABLE, str(other))
    assert len({first, second, of(plan(config))[1]}) == 3
