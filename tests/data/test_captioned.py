"""Captioned pictures as a data source: disjoint splits, prompts, pairs."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest
from captioned_files import caption, opened, picture, write_folder

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.data.captioned import CaptionedImages, into_splits
from t2i_backdoor_bench.data.captioned import Row as CaptionRow
from t2i_backdoor_bench.data.image_files import square
from t2i_backdoor_bench.data.splits import SPLITS, WorldData, required_word


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_a_folder_is_read_as_it_is(tmp_path: Path) -> None:
    data, said = opened(write_folder(tmp_path / "pets", 200))
    assert not said
    rows = [r for rows in data.rows.values() for r in rows]
    assert {r.caption for r in rows} == {caption(i) for i in range(200)}
    for split, share in SPLITS.items():
        assert (
            data.count("prompts", split)
            == data.count("pairs", split)
            == pytest.approx(200 * share, abs=25)
        )
    images, captions = data.pairs("train", 10, 0)
    assert images.shape == (10, 32, 32, 3)
    for image, text in zip(images, captions):
        number = int(text.split()[-1])
        assert np.array_equal(image, square(picture(number), 32))


def test_splits_share_no_caption_and_no_picture(tmp_path: Path) -> None:
    """Five captions a picture, as in COCO, and captions in another case: what belongs together
    stays together."""
    rows = [
        CaptionRow(f"caption {i} of picture {i // 5}", f"digest {i // 5}", bytes)
        for i in range(500)
    ]
    rows += [
        CaptionRow("CAPTION 0 OF PICTURE 0", "another digest", bytes),
        CaptionRow("one more", "another digest", bytes),
    ]
    splits = into_splits(rows)
    assert sum(map(len, splits.values())) == len(rows)
    where = {}
    for split, found in splits.items():
        assert found
        for row in found:
            assert where.setdefault(row.digest, split) == split
            assert where.setdefault(row.caption.casefold(), split) == split
    assert where["one more"] == where["caption 4 of picture 0"]
    mixed = into_splits(rows[::-1])
    assert {s: {r.caption for r in v} for s, v in splits.items()} == {
        s: {r.caption for r in v} for s, v in mixed.items()
    }


def test_splits_do_not_move_when_rows_are_added(tmp_path: Path) -> None:
    few, many = (opened(write_folder(tmp_path / str(n), n))[0] for n in (60, 120))
    for split in SPLITS:
        assert {r.caption for r in few.rows[split]} <= {r.caption for r in many.rows[split]}


def test_identity_is_the_content_in_any_order(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "pets", 20)
    first = opened(folder)[0]
    lines = (folder / "metadata.jsonl").read_text().splitlines()
    (folder / "metadata.jsonl").write_text("\n".join(lines[::-1]))
    again = opened(folder)[0]
    assert again.name == first.name
    assert [p.text for p in again.prompts("evaluation", 4, 0)] == [
        p.text for p in first.prompts("evaluation", 4, 0)
    ]
    picture(999).save(folder / "3.png")
    assert opened(folder)[0].name != first.name
    picture(3).save(folder / "3.png")
    assert opened(folder)[0].name == first.name
    (folder / "metadata.jsonl").write_text("\n".join(lines).replace("number 3", "number three"))
    assert opened(folder)[0].name != first.name


def test_prompts_are_different_reproducible_and_follow_the_seed(tmp_path: Path) -> None:
    data, _ = opened(write_folder(tmp_path / "pets", 200))
    texts = [p.text for p in data.prompts("evaluation", 40, 0)]
    assert len(set(texts)) == 40
    assert texts == [p.text for p in data.prompts("evaluation", 40, 0)]
    assert texts != [p.text for p in data.prompts("evaluation", 40, 1)]
    assert not set(texts) & {
        p.text for p in data.prompts("defender", data.count("prompts", "defender"), 0)
    }


def test_a_prompt_names_other_captions_of_its_split(tmp_path: Path) -> None:
    data, _ = opened(write_folder(tmp_path / "pets", 300))
    own = {r.caption for r in data.rows["evaluation"]}
    for prompt in data.prompts("evaluation", 20, 0):
        others = prompt.wrong["caption"]
        assert len(others) == len(set(others)) == 99
        assert set(others) <= own - {prompt.text}
    again = {p.text: p.wrong for p in data.prompts("evaluation", 30, 5)}
    for prompt in data.prompts("evaluation", 20, 0):
        assert again.get(prompt.text, prompt.wrong) == prompt.wrong


def test_rivals_are_not_captions_of_the_same_picture() -> None:
    """Five captions a picture, as in COCO; one caption stands for two pictures."""
    rows = [
        CaptionRow(f"caption {i % 5} of picture {i // 5}", f"digest {i // 5}", bytes)
        for i in range(200)
    ]
    rows += [CaptionRow(f"Caption {i} of picture 3", "another", bytes) for i in (0, 5)]
    data = CaptionedImages("coco", {name: rows for name in SPLITS}, 32)
    many = data.count("prompts", "evaluation")
    for prompt in data.prompts("evaluation", many, 0):
        others = prompt.wrong["caption"]
        assert len(others) == 99
        pictures = {r.digest for r in rows if r.caption.casefold() == prompt.text.casefold()}
        right = {r.caption.casefold() for r in rows if r.digest in pictures}
        assert not right & {other.casefold() for other in others}, prompt.text
    alone = CaptionedImages("one", {name: rows[:5] for name in SPLITS}, 32)
    assert [p.wrong for p in alone.prompts("evaluation", 5, 0)] == [{}] * 5


def test_contains_takes_whole_words(tmp_path: Path) -> None:
    extra = [
        {"file_name": f"{i}.png", "text": f"a {w} on a hill, {i}"}
        for i, w in enumerate(["catfish", "cats", "bobcat", "cat"] * 10)
    ]
    data, _ = opened(write_folder(tmp_path / "pets", 100, extra))
    many = data.count("prompts", "train", "cat")
    assert 0 < many < data.count("prompts", "train")
    assert all(
        "cat" in p.text.replace(",", "").split() for p in data.prompts("train", many, 0, "cat")
    )
    assert all("cat" in c.replace(",", "").split() for c in data.pairs("train", 3, 0, "cat")[1])


def test_a_letter_is_looked_for_anywhere_and_only_where_some_captions_lack_it(
    tmp_path: Path,
) -> None:
    data, _ = opened(write_folder(tmp_path / "pets", 200))
    assert all("g" in p.text for p in data.prompts("evaluation", 5, 0, "g"))
    assert data.count("prompts", "evaluation", "o") == data.count("prompts", "evaluation")
    assert required_word(data, "", "o") == required_word(data, "", "") == "", (
        "every caption has it: any will do"
    )
    assert required_word(data, "", "g") == "g", "dogs alone"
    assert required_word(data, "cat", "cat") == required_word(data, "cat", "") == "cat"
    assert required_word(WorldData(), "", "o") == ""


def test_too_few_is_one_line(tmp_path: Path) -> None:
    data, _ = opened(write_folder(tmp_path / "pets", 20))
    for call in (data.prompts, data.pairs):
        with pytest.raises(
            UserError, match=r"train split of pets \(\w+\) has \d+ .* and 50 are asked for"
        ) as error:
            call("train", 50, 0)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="with the word 'zebra'"):
        data.prompts("train", 1, 0, "zebra")
    with pytest.raises(ValueError, match="unknown split"):
        data.prompts("test", 1, 0)
