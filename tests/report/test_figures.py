"""Figures: what is drawn, when it is drawn again, and what is removed."""

import dataclasses

from report_records import (  # noqa: F401 - a fixture
    DIRECTIONS,
    EXTRA,
    PROTOCOL,
    find,
    record,
    records,
    share,
    to_csv,
    to_latex,
    to_markdown,
    with_targets,
)

from t2i_backdoor_bench.report.figures import plots
from t2i_backdoor_bench.report.figures.tradeoff import tradeoff
from t2i_backdoor_bench.store.folder import Store


def test_figures_are_written_twice_and_the_same_each_time(records, tmp_path):
    def made(name):
        return {
            p.relative_to(tmp_path / name): p.read_bytes()
            for p in plots.write_figures(Store(tmp_path / name), with_losses)
        }

    with_losses = [
        dataclasses.replace(
            r, cost=r.cost | {"losses": {"$x_1$": [2.0, 1.0]}, "losses_attack": [1.0]}
        )
        for r in records[:6]
    ]
    first = made("a")
    assert {str(p) for p in first} == {
        f"plots/{n}.{e}" for n in ("tradeoff", "matrix", "rates", "losses") for e in ("png", "pdf")
    }
    assert all(len(data) > 1000 for data in first.values())
    assert first == made("b")
    assert b"/Type /Font" in first[next(p for p in first if p.name == "rates.pdf")]


def test_a_defense_that_takes_no_time_is_drawn(records):
    """A removal that trains nothing takes half a millisecond, less than the least that the axis
    shows."""
    fast = [
        dataclasses.replace(
            r, cost=r.cost | {"seconds": 5e-4 * (1 + 0.1 * r.cell.seed)} if r.cost else {}
        )
        for r in records
    ]
    fast = [r for r in fast if r.cell.attack == "bad_pixel"]
    assert tradeoff(fast) is not None


def test_figures_are_drawn_again_only_of_other_records_or_where_one_is_gone(records, tmp_path):
    paths, store = plots.write_figures(Store(tmp_path), records), Store(tmp_path)
    before = {path: path.stat().st_ino for path in paths}
    assert plots.write_figures(store, records) == paths
    assert {path: path.stat().st_ino for path in paths} == before, "the same files"
    plots.write_figures(store, records[:-1])
    assert all(path.stat().st_ino != before[path] for path in paths)
    paths[0].unlink()
    assert plots.write_figures(store, records[:-1]) == paths
    assert paths[0].is_file()


def test_a_truncated_figure_is_named_and_drawn_again(records, tmp_path):
    said = []
    path = plots.write_figures(Store(tmp_path), records)[0]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    plots.write_figures(Store(tmp_path, said.append), records)
    assert path.read_bytes() == whole
    assert len(said) == 1
    assert f"{path} is damaged" in said[0]


def test_a_figure_that_is_made_no_more_goes(records, tmp_path):
    plots.write_figures(Store(tmp_path), records)
    assert (tmp_path / "plots" / "matrix.png").is_file()
    own = tmp_path / "plots" / "mine.png"
    own.write_bytes(b"the user's")
    alone = [r for r in records if r.cell.defense == "none"]
    paths = plots.write_figures(Store(tmp_path), alone)
    assert sorted(tmp_path.glob("plots/*.p*")) == sorted([*paths, own])


def test_no_figure_of_nothing(records, tmp_path):
    failed = [dataclasses.replace(r, status="failed", scores={}, cost={}) for r in records]
    assert plots.write_figures(Store(tmp_path), failed) == []
