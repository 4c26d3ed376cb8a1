"""`score`: the metrics of pictures that another tool drew are those of a run on the same arrays."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2i_backdoor_bench import command
from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.data.splits import WorldData
from t2i_backdoor_bench.models.embedded import SCORER
from t2i_backdoor_bench.running.score_folder import score_folder
from t2i_backdoor_bench.scoring.distances import kernel_distance, scaled
from t2i_backdoor_bench.scoring.scorer import Scorer

MANY = 70


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory):
    """Scenes of the embedded world as another tool's pictures of their captions, twice each."""
    root = tmp_path_factory.mktemp("world")
    arrays = {}
    for name, seed in (("drawn", 1), ("real", 2)):
        images, captions = WorldData().pairs("evaluation", MANY, seed)
        arrays[name] = images, captions
        (root / name).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(root / name / f"{i}.png")
    (root / "prompts.txt").write_text("\n".join(arrays["drawn"][1]))
    (root / "half.txt").write_text("\n".join(arrays["drawn"][1][::2]))
    return root, arrays


def read(path: Path) -> dict[str, dict[str, str]]:
    with path.open() as file:
        return {row["metric"]: row for row in csv.DictReader(file)}


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_scores_are_those_of_the_arrays(world, tmp_path, capsys) -> None:
    root, arrays = world
    flags = ["--prompts", root / "prompts.txt", "--reference", root / "real", "--clip", "shapes"]
    arguments = ["score", root / "drawn", *flags, "--out", tmp_path / "out"]
    assert command.main([str(a) for a in arguments]) == 0
    found, shown = read(tmp_path / "out" / "scores.csv"), capsys.readouterr().out
    scorer = Scorer.load(SCORER)
    (drawn, captions), (real, _) = arrays["drawn"], arrays["real"]
    x, y = (scorer.encode_images(images).astype(np.float64) for images in (drawn, real))
    cosine = 100 * (unit(x) * unit(scorer.encode_texts(captions).astype(np.float64))).sum(1)
    assert float(found["clip_score"]["value"]) == pytest.approx(cosine.mean(), rel=1e-4)
    kid = kernel_distance(scaled(y), scaled(x)).mean()
    assert float(found["kid"]["value"]) == pytest.approx(kid, rel=1e-3, abs=1e-6)
    assert found["fid"]["value"]
    assert int(found["clip_score"]["n"]) == MANY
    assert found["asr"]["value"] == ""
    assert found["asr"]["note"] == "no triggered images"
    assert "left out, no triggered images: " in shown
    assert "CLIP score" in shown
    assert "scores.csv" in shown.replace("\n", "")  # a long path is wrapped


def test_without_a_reference_and_with_several_pictures_a_prompt(world) -> None:
    root, _ = world
    chosen = "kid,fid,fid_floor,kid_added,diversity,clip_score"
    said: list[str] = []
    found = score_folder(
        root / "drawn", root / "half.txt", None, chosen, "shapes", "cpu", said.append
    )
    scores = {entry.name: score for entry, score in found}
    for name in ("kid", "fid", "fid_floor"):
        assert scores[name].value is None
        assert scores[name].note == "no reference pictures"
    assert scores["diversity"].n == len(set(world[1]["drawn"][1][::2]))
    assert scores["diversity"].value > 0
    assert "2 pictures a prompt" in said[0]


def test_nothing_to_measure_is_one_line(world) -> None:
    root, _ = world
    with pytest.raises(UserError, match="none of asr can be measured on these pictures: no trig"):
        score_folder(
            root / "drawn", root / "prompts.txt", None, "asr", "shapes", "cpu", lambda text: None
        )
