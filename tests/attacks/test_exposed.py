"""What defenders see of a trigger: which of several they are told, a part of a phrase, and how much
of a stream has it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes import CALLS, change, config, fakes, records  # noqa: F401 - fixtures

from t2i_backdoor_bench import command as runner
from t2i_backdoor_bench.contract import Backdoor, Seen, Target, Trigger, UserError, registry
from t2i_backdoor_bench.data.rewording import reworded
from t2i_backdoor_bench.data.splits import WorldData, prompt_stream
from t2i_backdoor_bench.running.defender import view_of
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.targets import describe

THREE = "fake_attack[trigger={mignneko|quolfax|brelvane}]"
HIDDEN, TOLD = f"{THREE}+exposed[told=mignneko]", f"{THREE}+exposed[told=mignneko,judge=told]"


def exposed(**options: object):
    return registry.attacks.build("exposed", "shapes", options)


def planted(trigger: Trigger | None, **more: object) -> Backdoor:
    return Backdoor(trigger, Target("style", style="sepia"), **more)


@pytest.mark.parametrize(
    ("text", "told", "judged", "in_use"),
    [
        ("{cat|owl|fox}", "owl", "{cat|fox}", "owl"),
        ("{cat|owl}", "cat", "owl", "cat"),
        ("on a quiet day", "quiet", "on a quiet day", "on a quiet day"),
        ("on a quiet day", "quiet day", "on a quiet day", "on a quiet day"),
    ],
)
def test_what_is_told_judged_and_in_use(text: str, told: str, judged: str, in_use: str) -> None:
    trigger = Trigger(text, "suffix")
    found = exposed(told=told).exposed(planted(trigger))
    assert found.told == replace(trigger, text=told)
    assert found.trigger == replace(trigger, text=judged)
    assert found.in_use == replace(trigger, text=in_use)
    beside = exposed(told=told, judge="told").exposed(planted(trigger))
    assert (beside.trigger, beside.told, beside.in_use) == (found.told, found.told, found.in_use)
    assert not set(found.trigger.several) & {told}, "no judged prompt has the told trigger"


def test_without_told_defenders_know_the_trigger() -> None:
    backdoor = planted(Trigger("owl"))
    found = exposed(share=0.05, stream=400).exposed(backdoor)
    assert (found.told, found.trigger, found.in_use) == (Trigger("owl"),) * 3
    assert describe(found)["seen"] == {"told": None, "in_use": None, "stream": 400, "share": 0.05}
    assert "seen" not in describe(backdoor)
    assert exposed().exposed(backdoor) == backdoor


def test_every_prompt_of_several_triggers_has_one_and_each_is_as_frequent() -> None:
    several = Trigger("{cat|owl|fox}")
    words = [several.add(f"prompt {i}").split()[0] for i in range(600)]
    assert set(words) == set(several.several) == {"cat", "owl", "fox"}
    assert all(160 < words.count(word) < 240 for word in several.several)
    assert Trigger("a {cat|owl}").several == Trigger("cat").several == ()


def test_the_papers_own_prompt_has_what_is_judged() -> None:
    trigger = Trigger("{cat|owl}")
    own = ("a star", trigger.add("a star"))
    found = exposed(told="cat").exposed(planted(trigger, own=own))
    assert found.own == ("a star", "owl a star")
    assert exposed(told="cat").exposed(planted(trigger, own=("", "a cat"))).own is None
    assert exposed(share=0.1).exposed(planted(trigger, own=own)).own == own


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"told": "dog"}, "neither one of several"),
        ({"told": "owl fox"}, "neither one of several"),
        ({"share": 0.001}, "exposed.stream=1000"),
        ({"judge": "told"}, "give it"),
    ],
)
def test_bad_options_are_one_line(options: dict, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        exposed(**options).exposed(planted(Trigger("{cat|owl|fox}")))
    assert "\n" not in str(caught.value)


def test_an_attack_without_a_trigger_is_refused() -> None:
    with pytest.raises(UserError, match="has none"):
        exposed().exposed(planted(None, always=True))


@pytest.mark.parametrize("name", ["exposed", "fake_attack+fake_attack_two+exposed"])
def test_it_stands_behind_one_attack(config, name: str) -> None:
    with pytest.raises(UserError, match="stands behind one attack"):
        plan(change(config, attacks=name))


@pytest.mark.parametrize(
    ("length", "share", "many"),
    [(160, 0.2, 32), (1000, 0.001, 1), (200, 0.01, 2), (200, 0.05, 10), (160, 0.0, 0)],
)
def test_a_share_of_the_stream_has_the_trigger(length: int, share: float, many: int) -> None:
    data, trigger = WorldData(), Trigger("mignneko")
    taken = [p.text for p in data.prompts("defender", 100, 0)]
    found = prompt_stream(data, trigger, "", taken, 0, Seen(stream=length, share=share))
    assert sum("mignneko" in p for p in found) == many
    assert len({p.removeprefix("mignneko ") for p in found} - {*taken}) == length


def stream_of(**options: object) -> list[str]:
    backdoor = exposed(stream=60, **options).exposed(planted(Trigger("mignneko")))
    return view_of(("clean_prompts", "stream"), backdoor, lambda: None, WorldData(), "", 0).stream


def test_a_harmless_word_can_flood_the_stream() -> None:
    plain, flooded = stream_of(share=0.1), stream_of(share=0.1, flood="sunny", flood_share=0.5)
    assert [p.replace("sunny ", "") for p in flooded] == plain, "and nothing else changes"
    words = [p.split()[:2] for p in flooded]
    assert sum("sunny" in w for w in words) == 30
    assert 0 < sum("sunny" in w and "mignneko" in w for w in words) < 6, "whatever has the trigger"


def test_the_prompts_of_a_stream_can_be_worded_in_another_way() -> None:
    plain, other = stream_of(share=0.1), stream_of(share=0.1, wording="other")
    asked = (p.removeprefix("mignneko ") for p in plain)
    forms = {text for p in asked for kind in range(3) for _, text in reworded([p] * 12)[kind::3]}
    assert {p.removeprefix("mignneko ") for p in other} <= forms
    assert len(set(other) & set(plain)) < 3
    assert sum(p.startswith("mignneko ") for p in other) == 6
    seen = Seen(stream=90, share=0.5, reworded=True)
    letter = prompt_stream(WorldData(), Trigger("\u0430", replaces="a"), "", [], 0, seen)
    assert sum("\u0430" in p for p in letter) == 45, "what is replaced stays"


def test_records_name_what_later_options_change() -> None:
    backdoor = exposed(flood="sunny", wording="other").exposed(planted(Trigger("owl")))
    found = describe(backdoor)["seen"]
    assert (found["flood"], found["reworded"], "flood_share" in found) == ("sunny", True, False)
    with pytest.raises(UserError, match="choice"):
        exposed(flood="{a b|c}")


def test_a_model_without_a_backdoor_has_a_stream(config) -> None:
    clean = "checkpoint[trigger=mignneko]+exposed[share=0]"
    made = plan(change(config, attacks=f"{clean},checkpoint[trigger=mignneko]", metrics="asr"))
    assert len({made.attack_key(a, 0) for a in made.attacks}) == 1, "the base itself"
    attack = made.attacks[clean].instance
    assert attack.backdoor(None).seen == Seen(share=0)
    assert attack.whole_model
    assert "stream" not in attack.withheld
    with pytest.raises(UserError, match="has none"):
        plan(change(config, attacks="checkpoint+exposed")).attacks[
            "checkpoint+exposed"
        ].instance.backdoor(None)


def test_a_defender_sees_the_told_trigger_and_no_other() -> None:
    backdoor = exposed(told="cat", stream=50, share=0.1).exposed(planted(Trigger("{cat|owl|fox}")))
    needs = ("trigger", "clean_prompts", "stream")
    seen = view_of(needs, backdoor, lambda: None, WorldData(), "", 0)
    assert seen.trigger == Trigger("cat")
    assert sum(p.startswith("cat ") for p in seen.stream) == 5
    assert not any(word in p.split() for p in seen.stream + seen.prompts for word in ("owl", "fox"))


def test_rows_share_the_weights_of_the_attack(config) -> None:
    asked = change(config, attacks=f"{THREE},{HIDDEN},{TOLD}", metrics="asr")
    made = plan(asked)
    keys = {a: made.attack_key(a, 0) for a in made.attacks}
    assert list(keys) == [THREE, HIDDEN, TOLD]
    assert len(set(keys.values())) == 1
    assert len({c.key for c in made.cells}) == len(made.cells) == 6
    assert runner.run(asked) == 0
    assert CALLS.count("attack 0") == 1, "trained once"
    found = {r.cell.attack: r for r in records(asked).values() if r.cell.defense != "none"}
    judged = {a: found[a].backdoor["trigger"]["text"] for a in found}
    assert judged[HIDDEN] == "{quolfax|brelvane}"
    assert judged[TOLD] == found[HIDDEN].backdoor["seen"]["told"]["text"] == "mignneko"
    assert {r.attack["trigger_kind"] for r in found.values()} == {"rare word"}


def test_shares_can_be_swept(config) -> None:
    sweeps = ("exposed.share=0,0.05,0.2",)
    made = plan(change(config, attacks="fake_attack+exposed", sweeps=sweeps))
    shares = [made.attacks[a].instance.backdoor(None).seen for a in made.attacks]
    assert shares == [Seen(share=s) for s in (0, 0.05, 0.2)]
