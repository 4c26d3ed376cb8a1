"""Forged run folders whose checksums fit: `verify` names what does not agree, before it draws."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
from forged import Forger, Verified, finished, forger, save, verified  # noqa: F401 - fixtures

from t2i_backdoor_bench.contract.hashing import digest

Check = Callable[..., Verified]


def refused(check: Check, forger: Forger, *words: str) -> None:
    """Every cell would be refused: what is wrong is said, and none is drawn."""
    found = check(forger.write())
    assert found.status == 1, found.text
    assert found.drawn == 0
    for word in words:
        assert word in found.text, found.text


def test_only_one_metric_is_left_to_compare(forger: Forger, verified: Check) -> None:
    forger.manifest["config"]["metrics"] = "drift"
    refused(verified, forger, "run.json, metrics", "drift: not stored, and run.json")


def test_other_keys_of_metrics(forger: Forger, verified: Check) -> None:
    forger.every(lambda p: p["extra"]["metric_keys"].update(asr="0" * 64, kid="0" * 64))
    refused(verified, forger, "asr: measured with other options", "kid: measured with other")


def test_scores_without_keys_and_keys_without_scores(forger: Forger, verified: Check) -> None:
    forger.record()["extra"]["metric_keys"].pop("asr")
    forger.record("none")["scores"].pop("kid")
    refused(verified, forger, "asr: measured with other options", "kid: not stored", "no score")


def test_rows_by_other_names(forger: Forger, verified: Check) -> None:
    for cell in forger.manifest["cells"]:
        cell["defense"] = {"shift_back": "skdcag"}.get(cell["defense"], cell["defense"])
    refused(verified, forger, "cells.1.defense: stored skdcag, now shift_back")


def test_two_rows_with_each_others_keys(forger: Forger, verified: Check) -> None:
    first, second = forger.manifest["cells"][:2]
    first["key"], second["key"] = second["key"], first["key"]
    refused(verified, forger, "cells.0.key: stored", "cells.1.key: stored")


def test_two_records_in_each_others_files(forger: Forger, verified: Check) -> None:
    a, b = forger.keys["none", 0], forger.keys["shift_back", 0]
    forger.cells[a], forger.cells[b] = forger.cells[b], forger.cells[a]
    refused(verified, forger, "the key of its configuration is not the one that it and its file")


def test_two_records_under_each_others_names(forger: Forger, verified: Check) -> None:
    """Keys, names and configurations fit, and only the numbers are those of the other."""
    a, b = forger.record("none"), forger.record("shift_back")
    a["cell"]["defense"], b["cell"]["defense"] = "shift_back", "none"
    refused(verified, forger, "its record calls itself shift_attack x shift_back, seed 0 on tiny")


@pytest.mark.parametrize("part", ["base", "attack", "seed"])
def test_a_record_that_names_itself_otherwise(forger: Forger, verified: Check, part: str) -> None:
    other = {"base": "sd15", "attack": "badt2i_pixel", "seed": 9}[part]
    forger.every(lambda p: p["cell"].update({part: other}))
    refused(verified, forger, "its record calls itself")


def of_config(change: Callable[[dict], object]) -> Callable[[Forger], None]:
    return lambda forger: forger.every(lambda p: change(p["cell"]["config"]))


def of_both(name: str, change: Callable[[dict], object]) -> Callable[[Forger], None]:
    """Of run.json and of every record."""

    def forge(forger: Forger) -> None:
        change(forger.manifest[name])
        forger.every(lambda p: change(p["extra"][name]))

    return forge


def longer(manifest: dict) -> None:
    """As a run with more prompts would be described."""
    manifest["config"]["n"] = 5000
    manifest["protocol"]["evaluation"]["n"] = 5000


FORGERIES = {
    "n in run.json": (lambda f: longer(f.manifest), "evaluation.n: stored 4, now 5000"),
    "n in records": (of_config(lambda c: c["evaluation"].update(n=5000)), "the key of its config"),
    "n in protocols": (
        of_both("protocol", lambda p: p["evaluation"].update(n=5000)),
        "protocol.evaluation.n: stored 5000, now 4",
    ),
    "scale in protocols": (
        of_both("protocol", lambda p: p.update(scale="full")),
        "protocol.scale: stored full, now test",
    ),
    "scale in run.json": (
        lambda f: [
            f.manifest["config"]["scale"].update(name="full"),
            of_both("protocol", lambda p: p.update(scale="full"))(f),
        ],
        "the scale full: n is 4 in run.json, and 200 here",
    ),
    "a scale of a similar name": (
        lambda f: [
            f.manifest["config"]["scale"].update(name="full "),
            of_both("protocol", lambda p: p.update(scale="full "))(f),
        ],
        "the scale full  is none of this program",
    ),
    "training": (
        lambda f: f.manifest["config"]["scale"].update(training=1.0),
        "protocol.training: stored 0.5, now 1.0",
    ),
    "base in protocols": (
        of_both("protocol", lambda p: p.update(base="sd15")),
        "protocol.base: stored sd15, now tiny",
    ),
    "base weights": (
        lambda f: f.manifest["base"].update(weights="0" * 64),
        "run.json, base.weights",
    ),
    "hash of the base": (
        lambda f: f.every(lambda p: p["extra"]["provenance"].update(base="0" * 64)),
        "provenance, base",
    ),
    "options in records": (
        of_config(lambda c: c["attack"]["options"].update(shift=9.0)),
        "the key of its config",
    ),
    "options in run.json": (
        lambda f: f.manifest["attacks"]["shift_attack"].update(shift=9.0),
        "run.json, attacks.shift_attack.shift: stored 9.0, now 0.5",
    ),
    "options in run.yaml": (
        lambda f: (f.folder / "run.yaml").write_text(
            (f.folder / "run.yaml").read_text() + "set: {shift_attack.shift: 9}\n"
        ),
        "run.yaml, set.shift_attack.shift: stored 9",
    ),
    "directions": (
        lambda f: f.manifest["directions"]["asr"].update(better="higher"),
        "directions.asr.better: stored higher, now lower",
    ),
    "directions in records": (
        lambda f: f.every(lambda p: p["extra"]["directions"]["asr"].update(better="higher")),
        "asr: to be read in another way",
    ),
    "needs": (
        lambda f: [
            f.manifest["needs"].update(shift_back=[]),
            f.every(lambda p: p.update(needs=[])),
        ],
        "needs.shift_back.0: stored nothing, now trigger",
    ),
    "judges": (
        lambda f: f.manifest["judges"]["shift_attack seed 0"].update(threshold=9.0),
        "run.json, judges.shift_attack seed 0.threshold",
    ),
    "seconds": (
        lambda f: f.every(lambda p: p["scores"]["seconds"].update(value=1e-6)),
        "seconds, value: stored 1e-06, now",
    ),
    "seconds and costs": (
        lambda f: f.every(
            lambda p: [p["scores"]["seconds"].update(value=1e-6), p["cost"].update(seconds=1e-6)]
        ),
        "cost, seconds: stored 1e-06",
    ),
    "weights": (
        lambda f: f.every(lambda p: p["extra"]["provenance"].update(attack_weights="0" * 64)),
        "made of other attacked weights than those that are stored",
    ),
    "number of pictures": (
        lambda f: f.every(lambda p: p["scores"]["asr"].update(n=5000)),
        "asr: of 5000 pictures, and it has 4 values",
    ),
    "error of a finished cell": (
        lambda f: f.record().update(error="it did not fit"),
        "error: stored it did not fit",
    ),
    "prompts": (
        lambda f: [save(p, {"target": ["a"]}) for p in (f.folder / "prompts").glob("*.json")],
        ".json, target.0: stored a, now",
    ),
    "example prompts": (
        lambda f: f.manifest["example_prompts"].insert(0, "a lovely prompt"),
        "example_prompts.0: stored a lovely prompt",
    ),
    "citations": (
        lambda f: f.manifest["citations"][0].update(short="Me 2026"),
        "citations.0.short: stored Me 2026",
    ),
    "an unknown metric": (
        lambda f: f.every(lambda p: p["scores"].update(best=p["scores"]["asr"])),
        "best is no metric of this program",
    ),
    "a network of scores": (
        lambda f: f.every(lambda p: p["scores"]["kid"].update(network="a better one")),
        "provenance, networks.kid: stored",
    ),
    "a protocol of before": (
        lambda f: f.record()["extra"]["protocol"].update(protocol=1),
        "protocol.protocol: stored 1, now 2",
    ),
    "edits": (
        lambda f: f.every(lambda p: p["extra"].update(edits="one token")),
        "edits: stored one token",
    ),
}


@pytest.mark.parametrize("what", FORGERIES)
def test_what_the_plan_gives_cannot_be_changed(forger: Forger, verified: Check, what: str) -> None:
    change, words = FORGERIES[what]
    change(forger)
    refused(verified, forger, words)


def test_one_seed_as_three_under_its_own_key(forger: Forger, verified: Check) -> None:
    for cell in forger.manifest["cells"]:
        cell["key"] = forger.keys[cell["defense"], 0]
    refused(verified, forger, "cells.2.key: stored", "cells.3.key: stored")


def test_one_seed_as_three_with_keys_of_their_own(forger: Forger, verified: Check) -> None:
    """Everything says the right seed, and the numbers are those of another."""
    for (defense, seed), key in forger.keys.items():
        own, first = forger.cells[key], forger.record(defense, 0)
        own["scores"] = copy.deepcopy(first["scores"])
        own["cost"] = first["cost"]
        (forger.folder / "samples" / f"{key}.safetensors").unlink()
        (forger.folder / "samples" / f"{key}.safetensors.sha256").unlink()
        assert own["cell"]["seed"] == seed
    refused(verified, forger, "shift_attack x none, seed 1 has every score of shift_attack x none")


def test_an_honest_key_of_other_settings_is_not_the_plans(forger: Forger, verified: Check) -> None:
    """A record that was made whole, with other options than run.json says."""
    payload = forger.cells.pop(forger.keys["shift_back", 0])
    payload["cell"]["config"]["defense"][0]["options"]["shift"] = 0.5
    key = payload["cell"]["key"] = digest(payload["cell"]["config"])
    forger.cells[key] = payload
    next(c for c in forger.manifest["cells"] if c["key"] == forger.keys["shift_back", 0])["key"] = (
        key
    )
    refused(verified, forger, "defense.0.options.shift: stored 0.5, now 0.25")


def test_commits_that_name_other_code(
    forger: Forger, verified: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"a" * 40: "the source", "c" * 40: "another"}
    monkeypatch.setattr("t2i_backdoor_bench.running.agreement.is_clone", lambda: True)
    monkeypatch.setattr(
        "t2i_backdoor_bench.running.agreement.source_at", lambda c: known.get(c, "")
    )

    def say(commit: str, source: str = "the source") -> None:
        forger.manifest["commit"] = "a" * 40
        for payload in forger.cells.values():
            for code in payload["extra"]["provenance"]["codes"]:
                code.update(commit=commit, source=source, dirty=False)

    say("b" * 40)
    refused(verified, forger, "the commit bbbbbbbbbbbb, which is not known here")
    say("c" * 40)
    refused(verified, forger, "the commit cccccccccccc, which does not have the source files")
    say("a" * 40)
    for other in ("c" * 40, "a" * 40 + "+", "b" * 40):
        forger.manifest["commit"] = other
        refused(verified, forger, f"run.json names the commit {other[:12]}, which made none of its")
