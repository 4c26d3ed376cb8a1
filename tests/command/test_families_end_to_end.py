"""One smoke cell of each family of models from the command, with attention maps."""

from __future__ import annotations

import pytest
import tiny_families
from tiny_joint import build_joint

from t2i_backdoor_bench import command
from t2i_backdoor_bench.models import catalog
from t2i_backdoor_bench.models.sampler import Sampler
from t2i_backdoor_bench.store.folder import Store

KINDS = ("flux_dev", "sdxl")
MORE = [pytest.param(kind, marks=pytest.mark.thorough) for kind in ("sd35", "pixart_sigma")]
SMALL = ("badt2i_pixel.steps=2", "skdcag.steps=2", "skdcag.refresh=1", "skdcag.batch=4")


@pytest.mark.parametrize("kind", [*KINDS, *MORE])
def test_a_cell_from_the_command(kind: str, tmp_path, tiny_scorer, monkeypatch) -> None:
    build = tiny_families.build if kind in tiny_families.FAMILIES else build_joint
    own = "own" if build is build_joint else "dpm"
    folder = build(tmp_path / "model", kind)
    base = catalog.Base(str(folder), "shapes", Sampler(2, 2.0, own), 16, str(tiny_scorer))
    monkeypatch.setitem(catalog.BASES, kind, base)
    given = [
        "--base",
        kind,
        "--scale",
        "smoke",
        "--n",
        "4",
        "--metrics",
        "asr,removal_accuracy",
        "--workers",
    ]
    given += ["1", "--attacks", "badt2i_pixel", "--defenses", "skdcag", "--attention-maps"]
    settings = [word for setting in SMALL for word in ("--set", setting)]
    out = tmp_path / "run"
    assert command.main([*given, *settings, "--out", str(out)]) == 0
    (record,) = Store(out).all_results()
    assert record.status == "done"
    assert record.scores["asr"].value is not None
    assert list(out.glob("attention-*.png"))
