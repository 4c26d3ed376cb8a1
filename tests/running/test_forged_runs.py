"""Run folders of strangers: what is only found by making a cell again, damaged files, and what a
folder may ask of this machine."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import TINY_SAMPLER
from forged import Forger, Verified, finished, forger, save, verified  # noqa: F401 - fixtures
from PIL import Image

from t2i_backdoor_bench import command
from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models import catalog, trust
from t2i_backdoor_bench.report.publish import rebuild
from t2i_backdoor_bench.running import verify as checker
from t2i_backdoor_bench.running.compare import compare_costs
from t2i_backdoor_bench.running.cost import machine
from t2i_backdoor_bench.running.manifest import papers
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.record_format import parse_result

Check = Callable[..., Verified]


def test_an_honest_run_and_one_changed_score_of_all(forger: Forger, verified: Check) -> None:
    """With `every`, what one cell in six has forged is found; so are seconds of another kind."""
    found = verified(forger.folder, tables=True, every=True)
    assert found.status == 0, found.text
    assert found.drawn == 6
    assert "all 6 cells, made again, have the same" in found.text
    assert "measured, and not compared: shift_attack x none, seed 0: seconds: stored" in found.text


def test_what_a_subset_of_the_metrics_hides_is_compared(
    finished: Config, forger: Forger, verified: Check
) -> None:
    """run.json says whole and consistently that only KID was asked for; the forged rate is one that
    the records have, and it is made again."""
    manifest = forger.manifest
    manifest["config"]["metrics"] = "kid"
    for part in ("metrics", "directions"):
        manifest[part] = {"kid": manifest[part]["kid"]}
    manifest["citations"] = papers(plan(dataclasses.replace(finished, metrics="kid")))
    yaml = forger.folder / "run.yaml"
    yaml.write_text(yaml.read_text().replace(finished.metrics, "kid"))
    forger.every(lambda p: p["scores"]["asr"].update(value=0.123))
    found = verified(forger.write())
    assert found.status == 1
    assert found.drawn == 1
    assert "asr: stored 0.123" in found.text


def test_a_cell_that_is_said_to_have_failed_is_made_again(
    forger: Forger, verified: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a bad number is not hidden as a failure."""
    forger.record("none", 0).update(status="failed", error="it did not fit", scores={})
    monkeypatch.setattr(checker.random, "SystemRandom", First)
    found = verified(forger.write())
    assert found.status == 1
    assert "status: stored failed, now done" in found.text


class First:
    """Chance that picks the first."""

    def choice(self, found):
        return found[0]


def test_seconds_that_no_machine_of_this_name_takes(forger: Forger) -> None:
    here, then = parse_result(copy.deepcopy(forger.record())), parse_result(forger.record())
    assert here.origin("machine") == machine("cpu")
    here.cost["seconds"], then.cost["seconds"] = 100.0, 11.0
    assert not compare_costs(then, here)[1]
    then.cost["seconds"] = 9.0
    lines, far = compare_costs(then, here)
    assert far == [
        "seconds: stored 9.0, now 100.0: more than 10 times as much, on a machine of the same name"
    ]
    assert "seconds: stored 9.0, now 100.0" in lines
    here.cost["seconds"] = 0.01
    assert compare_costs(then, here)[1], "whichever is the longer"
    then.cost["seconds"] = 4.0
    assert not compare_costs(then, here)[1], "a busy machine"


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("where", "how", "words"),
    [
        ("models/*.safetensors", damage, "damaged: it does not fit its checksum"),
        ("models/*.safetensors", Path.unlink, "is gone, and its checksum is there"),
        ("models/*.sha256", Path.unlink, "has no checksum"),
        ("models/*.json", damage, ".json is damaged"),
        ("samples/*.safetensors", halve, "damaged: it does not fit its checksum"),
        ("prompts/*.json", damage, ".json is damaged"),
        ("sources/*.json", lambda p: save(p, {"a": "b"}), "not the list of files"),
        ("cells/*.json", damage, ".json is damaged"),
        ("grid.png", lambda p: Image.new("RGB", (9, 9)).save(p), "grid.png is not the figure"),
        ("grid.png", halve, "grid.png is damaged: it cannot be read as a picture"),
        ("report.html", halve, "report.html is not what the records give"),
    ],
)
def test_damage_after_a_run_is_finished_is_noticed(
    forger: Forger,
    verified: Check,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    how: Callable[[Path], object],
    words: str,
) -> None:
    monkeypatch.setattr(checker, "make_again", lambda *_: None)
    how(sorted(forger.folder.glob(where))[0])
    found = verified(forger.folder, tables=where.startswith(("grid", "report")))
    assert found.status == 1
    assert words in found.text


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f.manifest["config"].update(attacks=5),
        lambda f: f.manifest["config"].update(seeds=["a"]),
        lambda f: f.manifest["config"]["scale"].update(n="many"),
        lambda f: f.manifest["config"].update(unheard=1),
        lambda f: f.manifest.update(config=[]),
        lambda f: f.manifest.update(cells=3),
        lambda f: f.manifest.update(cells=[[]]),
        lambda f: f.manifest.update(judges=7),
        lambda f: f.manifest.update(commit={"a": 1}),
        lambda f: f.every(lambda p: p["cell"].update(config=[1])),
        lambda f: f.every(lambda p: p["cell"].update(config={"shared": 3})),
        lambda f: f.every(lambda p: p["scores"]["asr"].update(value="0.1")),
        lambda f: f.every(lambda p: p["extra"].update(metric_keys=[1])),
        lambda f: f.every(lambda p: p["extra"].update(directions=[1])),
        lambda f: f.every(lambda p: p["extra"].update(provenance={"codes": 3, "seed": []})),
        lambda f: f.every(lambda p: p["extra"].update(protocol=[])),
        lambda f: f.every(lambda p: p.update(cost=None)),
        lambda f: f.every(lambda p: p.update(status=[])),
    ],
)
def test_values_of_wrong_types_never_pass_and_are_one_line(
    forger: Forger, verified: Check, change: Callable[[Forger], object]
) -> None:
    change(forger)
    with contextlib.suppress(UserError):
        assert verified(forger.write()).status == 1


@pytest.mark.parametrize(
    "asked",
    [
        {"base": "owner/model"},
        {"base": "sd15"},
        {"data": "owner/captions,split=train"},
        {"clip": "ViT-B-32:laion2b_s34b_b79k"},
    ],
)
def test_what_is_named_is_not_fetched_unless_asked(
    forger: Forger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: dict
) -> None:
    contacted = []

    def contact(*args: object, **_: object) -> None:
        contacted.append(args)
        raise UserError("contacted")

    monkeypatch.setattr(trust, "fetch", contact)
    monkeypatch.setattr("t2i_backdoor_bench.data.caption_tables._open_hub", contact)
    monkeypatch.setattr("open_clip.download_pretrained", contact)
    forger.manifest["config"].update(asked)
    folder = forger.write()
    assert command.main(["verify", str(folder)]) == 2
    said = capsys.readouterr().err
    assert not contacted
    assert "give --fetch" in said
    assert said.count("\n") == 1
    if "clip" not in asked:
        assert command.main(["verify", str(folder), "--fetch"]) == 2
        assert contacted


def test_all_and_fetch_go_with_verify(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--all"]) == 2
    assert "--all goes with verify FOLDER" in capsys.readouterr().err


@pytest.fixture
def unwritable(
    finished, tiny_base: Path, tiny_scorer: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The finished run, and the base that it names, in folders that this process cannot write."""
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        base, scorer, run = (
            Path(shutil.copytree(source, Path(place) / name))
            for source, name in (
                (tiny_base, "b"),
                (tiny_scorer, tiny_scorer.name),
                (finished.folder, "r"),
            )
        )
        found = catalog.Base(str(base), "shapes", TINY_SAMPLER, 16, str(scorer))
        monkeypatch.setitem(catalog.BASES, "tiny", found)
        for path in Path(place).rglob("*"):
            path.chmod(0o555 if path.is_dir() else 0o444)
        if root:
            os.seteuid(65534)
        try:
            yield run
        finally:
            if root:
                os.seteuid(0)
            for path in [p for p in Path(place).rglob("*") if p.is_dir()]:
                path.chmod(0o755)


def test_a_read_only_folder_is_verified(
    unwritable: Path, verified: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checker, "make_again", lambda *_: None)
    with pytest.raises(UserError, match="cannot write"):
        Store(unwritable)
    found = verified(unwritable, tables=True)
    assert found.status == 0, found.text
    with pytest.raises(UserError):
        rebuild(unwritable)
