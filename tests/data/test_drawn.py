"""Pictures that another tool drew, with their prompts; and prompts without pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from captioned_files import caption, opened, picture

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.data.drawn import Drawn, natural, read_drawn, read_reference
from t2i_backdoor_bench.data.image_files import square
from t2i_backdoor_bench.data.splits import SPLITS

MANY = 12


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """0.png to 11.png: in the order of the alphabet, 10 comes before 2."""
    folder = tmp_path / "drawn"
    folder.mkdir()
    for i in range(MANY):
        picture(i, (32, 32)).save(folder / f"{i}.png")
    return folder


def listed(folder: Path, lines: list[str], name: str = "prompts.txt") -> Path:
    (folder.parent / name).write_text("\n".join(lines) + "\n\n")
    return folder.parent / name


def read(folder: Path, prompts: Path | None) -> tuple[Drawn, list[str]]:
    said: list[str] = []
    return read_drawn(folder, prompts, said.append), said


def of(found: Drawn) -> dict[str, np.ndarray]:
    return {p.text: image for p, image in zip(found.prompts, found.images, strict=True)}


def right(found: Drawn, many: int = MANY) -> None:
    images = of(found)
    assert set(images) == {caption(i) for i in range(many)}
    for i in range(many):
        assert np.array_equal(images[caption(i)], np.asarray(picture(i, (32, 32))))


def test_a_list_of_prompts_goes_with_the_pictures_in_the_order_of_their_numbers(drawn) -> None:
    found, said = read(drawn, listed(drawn, [caption(i) for i in range(MANY)]))
    right(found)
    assert said == []
    assert found.per_prompt == 1
    assert len(found.diverse) == 0
    for prompt in found.prompts:
        assert set(prompt.wrong["caption"]) == {caption(i) for i in range(MANY)} - {prompt.text}
    assert sorted(["p10.png", "p2.png", "a1.png"], key=natural) == ["a1.png", "p2.png", "p10.png"]


def test_a_broken_picture_takes_its_own_prompt_with_it(drawn) -> None:
    (drawn / "11.png").write_bytes(b"no picture")
    found, said = read(drawn, listed(drawn, [caption(i) for i in range(MANY)]))
    right(found, MANY - 1)
    assert "1 of 12 rows are left out: 1 broken picture (11.png)" in said[0]


def test_several_pictures_a_prompt(drawn) -> None:
    found, said = read(drawn, listed(drawn, [caption(i) for i in range(MANY // 3)]))
    assert [p.text for p in found.prompts] == [caption(i // 3) for i in range(MANY)]
    assert found.per_prompt == 3
    assert np.array_equal(found.diverse, found.images)
    assert "3 pictures a prompt, in the order of names: 0.png, 1.png, 2.png" in said[0]
    with pytest.raises(UserError, match=r"has 12 pictures and .* has 5 prompts"):
        read(drawn, listed(drawn, [caption(i) for i in range(5)]))


def test_tables_of_prompts_name_their_pictures(drawn) -> None:
    lines = [f"{i}.png,{caption(i)}" for i in reversed(range(MANY - 1))]
    found, said = read(drawn, listed(drawn, ["image,prompt", *lines], "p.csv"))
    right(found, MANY - 1)
    assert "1 pictures have no row in p.csv (11.png)" in said[0]
    ordered = listed(drawn, ["prompt", *(caption(i) for i in range(MANY))], "q.csv")
    right(read(drawn, ordered)[0])
    listed(drawn, ["file_name,text", *lines], "drawn/metadata.csv")
    right(read(drawn, None)[0], MANY - 1)


def test_other_sizes_are_cropped_and_said(drawn, tmp_path) -> None:
    picture(0, (50, 40)).save(drawn / "0.png")
    found, said = read(drawn, listed(drawn, [caption(i) for i in range(MANY)]))
    assert found.side == 32
    assert np.array_equal(of(found)[caption(0)], square(picture(0, (50, 40)), 32))
    assert "1 pictures are cropped to squares, or scaled, to 32 px" in said[0]
    (tmp_path / "real").mkdir()
    (drawn / "1.png").rename(tmp_path / "real" / "same.png")
    picture(90, (64, 64)).save(tmp_path / "real" / "b.png")
    lines: list[str] = []
    real = read_reference(tmp_path / "real", found, lines.append)
    assert real.shape == (2, 32, 32, 3)
    assert np.array_equal(real[0], square(picture(90, (64, 64)), 32))
    assert "1 reference pictures are among those that are scored" in lines[0]


def test_what_is_not_there_is_one_line(drawn, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="there is no folder"):
        read(tmp_path / "gone", None)
    with pytest.raises(UserError, match="there is no file of prompts"):
        read(drawn, tmp_path / "gone.txt")
    with pytest.raises(UserError, match="has no captions"):
        read(drawn, None)
    with pytest.raises(UserError, match="has no picture that can be used"):
        read_reference(tmp_path / "empty", read(drawn, listed(drawn, ["x"]))[0], print)


def test_a_list_of_prompts_is_data_without_pictures(tmp_path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("\n\n".join(caption(i) for i in range(40)) + "\n" + caption(3).upper())
    data, said = opened(path)
    assert said == []
    texts = [p.text for s in SPLITS for p in data.prompts(s, data.count("prompts", s), 0)]
    assert sorted(map(str.casefold, texts)) == sorted(caption(i) for i in range(40))
    for split in SPLITS:
        assert data.count("pairs", split) == 0
        assert data.pairs(split, 0, 0)[0].shape == (0, 32, 32, 3)
        with pytest.raises(UserError, match="has 0 captioned pictures and 5 are asked for"):
            data.pairs(split, 5, 0)
    assert "1 prompt too long (line 3)" in opened(path, lambda t: t != caption(2))[1][0]
    path.write_text("image,caption\na.jpg,a dog\nb.jpg,a cat\n")
    with pytest.raises(UserError, match=r"names pictures.*call it \.csv"):
        opened(path)


def test_the_setting_prompts_is_such_data() -> None:
    from t2i_backdoor_bench.running.settings import make_config

    assert make_config({"prompts": "a/b.txt"}).data == "a/b.txt"
    with pytest.raises(UserError, match="not both"):
        make_config({"prompts": "b.txt", "data": "x"})
    with pytest.raises(UserError, match=r"must be a \.txt"):
        make_config({"prompts": "b.csv"})
