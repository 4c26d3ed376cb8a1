"""`--track`: a run tells trackers of its cells, trainings, tables and pictures.

All of it is read from stored records and files, by the process that was started: a tracker changes
no number, key or record. One that breaks is dropped with one line, and the run goes on: it may have
run for hours.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from t2i_backdoor_bench.contract import Record, UserError
from t2i_backdoor_bench.contract.hashing import plain
from t2i_backdoor_bench.running.display import Display
from t2i_backdoor_bench.running.manifest import protocol
from t2i_backdoor_bench.running.plan import Plan
from t2i_backdoor_bench.running.scales import TRACKERS
from t2i_backdoor_bench.running.trackers import KINDS, About, Tracker, tag
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.private_paths import stripped

NUMBERS = ("seconds", "steps", "peak_memory_mb", "seconds_attack", "seconds_picture")
PICTURES = ("grid.png", "attention-*.png", "sweep-*.png", "plots/*.png")


def check_trackers(names: Sequence[str]) -> None:
    """Raise UserError for a tracker whose package is not installed."""
    for name in names:
        if importlib.util.find_spec(TRACKERS[name]) is None:
            raise UserError(
                f"--track {name} needs the package {TRACKERS[name]}: pip install {TRACKERS[name]},"
                " or leave the flag out"
            )


@dataclass
class Tracking:
    """The trackers that are open, by name. `told` has the attacks whose losses were told."""

    plan: Plan
    store: Store
    display: Display
    open: dict[str, Tracker] = field(default_factory=dict)
    told: set[tuple[str, int]] = field(default_factory=set)
    done: int = 0

    def begin(self, total: int) -> None:
        """Open the trackers: so many cells are to be made."""
        self.done = len(self.plan.cells) - total
        settings = {k: _text(v) for k, v in plain(protocol(self.plan)).items()}
        about = About(self.store.root, settings)
        for name in self.plan.config.track:
            self._guarded(name, lambda name=name: self.open.update({name: KINDS[name](about)}))

    def cell(self, key: str) -> None:
        """Tell of a cell that is stored."""
        record = self.store.read_result(key) if self.open else None
        if record is None:
            return
        self.done += 1
        name, values = name_of(record), numbers_of(record)
        self._tell(lambda tracker: tracker.numbers(f"cells/{name}", values, self.done))
        for curve, points in self._curves(record).items():
            self._tell(lambda t, curve=curve, points=points: t.curve(f"losses/{curve}", points))

    def _curves(self, record: Record) -> dict[str, list[tuple[int, float]]]:
        """The losses of the trainings of a cell; those of its attack with its first cell."""
        cell, cost, found = record.cell, record.cost, {}
        losses = cost.get("losses", {})
        for part, values in losses.items():
            # of several trainings only the sum of the steps is known
            steps = cost.get("steps") if len(losses) == 1 else None
            found[f"{name_of(record)}/{tag(part)}"] = points_of(values, steps)
        if (cell.attack, cell.seed) not in self.told and cost.get("losses_attack"):
            self.told.add((cell.attack, cell.seed))
            attack = f"{tag(cell.attack)}/seed-{cell.seed}"
            found[attack] = points_of(cost["losses_attack"], cost.get("steps_attack"))
        return found

    def end(self, whole: bool, readable: bool) -> None:
        """Tell of the tables and pictures, where there are any to read, and close the trackers."""
        if readable and not self.open:  # every cell was stored
            self.begin(0)
        root = self.store.root
        if readable and self.store.path("table.csv").is_file():
            self._tell(lambda tracker: tracker.table(root / "table.csv"))
        for path in [p for shape in PICTURES for p in sorted(root.glob(shape))] if readable else []:
            self._tell(lambda tracker, path=path: tracker.picture(path))
        self._tell(lambda tracker: tracker.end(whole))
        self.open.clear()

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self.open.items()):
            self._guarded(name, lambda tracker=tracker: what(tracker))

    def _guarded(self, name: str, call: Callable[[], None]) -> None:
        """Do it; where it fails, say so and drop the tracker."""
        try:
            call()
        except (Exception, SystemExit) as error:
            self.open.pop(name, None)
            why = (str(error).strip().splitlines() or [""])[0]
            self.display.say(
                f"--track {name} broke ({type(error).__name__}: {why}); the run goes on without it"
            )


@contextmanager
def tracked(plan_: Plan, store: Store, display: Display) -> Iterator[list[bool]]:
    """A block in which trackers are told of the cells that `display` counts. The block appends
    whether the run has all of its cells; where it appends nothing it has made nothing to read."""
    ended: list[bool] = []
    if not plan_.config.track:
        yield ended
        return
    tracking = Tracking(plan_, store, display)
    display.watcher = tracking
    try:
        yield ended
    finally:
        tracking.end(ended == [True], bool(ended))


def name_of(record: Record) -> str:
    """A cell as a name. Where letters had to go, the key tells two of them apart."""
    cell = record.cell
    parts = [cell.attack, cell.defense, f"seed-{cell.seed}"]
    name = "/".join(map(tag, parts))
    return name if name == "/".join(parts) else f"{name}-{cell.key[:6]}"


def numbers_of(record: Record) -> dict[str, float]:
    """The scores of a cell that are numbers, its main costs, and whether it failed."""
    found = {tag(name): score.value for name, score in record.scores.items()}
    found |= {name: record.cost.get(name) for name in NUMBERS}
    found["failed"] = float(record.status != "done")
    return {name: float(value) for name, value in found.items() if value is not None}


def points_of(values: Sequence[float], steps: int | None) -> list[tuple[int, float]]:
    """The points of a stored curve, each in the middle of the steps that it is the mean of."""
    wide = (steps or len(values)) / max(1, len(values))
    return [(int((i + 0.5) * wide), value) for i, value in enumerate(values)]


def _text(value: object) -> object:
    return stripped(value) if isinstance(value, str) else value
