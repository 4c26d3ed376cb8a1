"""What a run will write, counted before any work: pictures and attacked weights, which are nearly
all of it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from t2i_backdoor_bench.contract import Cell
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.running.asked import cell_prompts
from t2i_backdoor_bench.running.harmless_pictures import PROMPTS, wants_harmless
from t2i_backdoor_bench.running.probe_pictures import probe_prompts
from t2i_backdoor_bench.running.saved_models import kinds_of, saved_name
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.running.two_models import development
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.targets import kind_of

GB = 1e9


@dataclass(frozen=True)
class Disk:
    """Bytes that a run adds to its folder, by what they are, and those that are free there."""

    pictures: int
    weights: int
    saved: int
    free: int

    @property
    def needed(self) -> int:
        return self.pictures + self.weights + self.saved

    @property
    def text(self) -> str:
        parts = {"pictures": self.pictures, "attacked weights": self.weights}
        parts |= {"saved models": self.saved} if self.saved else {}
        inside = ", ".join(f"{name} {size / GB:.2f}" for name, size in parts.items())
        return f"disk: about {self.needed / GB:.2f} GB ({inside}); {self.free / GB:.0f} GB are free"


def disk_of(shared: Shared, cells: Sequence[Cell]) -> Disk:
    """Bytes of what `cells` lack in the run folder. The model must be loaded. What methods keep
    while they train (`training/`) comes on top, and goes again."""
    store, plan_ = shared.store, shared.plan
    new = [c for c in cells if not _stored(store, f"samples/{c.key}")]
    drawn = sum(pictures_of(shared, c) for c in new) + clean_pictures(shared, new)
    attacks = {plan_.attack_key(c.attack, c.seed) for c in cells}
    untrained = sum(not _stored(store, f"models/{key}") for key in attacks)
    names = {saved_name(plan_, c, kind) for c in cells for kind in kinds_of(plan_, c)}
    models = sum(not store.path(name).is_dir() for name in names)
    return Disk(
        drawn * 3 * shared.model.resolution**2,
        untrained * bytes_of(shared.model),
        models * bytes_of(shared.model, whole=True),
        shutil.disk_usage(there(store.root)).free,
    )


def _stored(store: Store, name: str) -> bool:
    return store.path(f"{name}.safetensors").is_file()


def pictures_of(shared: Shared, cell: Cell) -> int:
    """How many pictures a cell draws: its conditions, and what the metrics of the run ask for."""
    many = sum(len(texts) for texts, _ in cell_prompts(shared, cell).drawn.values())
    if shared.backdoor(cell.attack).trigger is None:
        return many
    config = shared.plan.config
    many += config.size.harmless * PROMPTS if wants_harmless(shared) else 0
    return many + sum(probe_prompts(shared.plan, cell).values())


def clean_pictures(shared: Shared, cells: Sequence[Cell]) -> int:
    """How many pictures are drawn for these cells beside theirs: by the model before the attack,
    once for each seed and for each word that a prompt must contain, and what judges are calibrated
    on."""
    size = shared.size
    many = sum(
        size.n
        + size.perturbed
        + size.diverse * size.per_prompt
        + 2 * len(development(shared, seed))
        for seed in {c.seed for c in cells}
    )
    many += size.n * len({(c.seed, s) for c in cells if (s := shared.source(c.attack))})
    for attack, seed in {(c.attack, c.seed) for c in cells}:
        kind = kind_of(shared.backdoor(attack).target)
        many += size.n if kind.judged else 0
        many += len(development(shared, seed)) if kind.judged and not kind.pastes else 0
        many += (size.harmless + 1) * PROMPTS if wants_harmless(shared) else 0
    return many


def bytes_of(model: T2IModel, whole: bool = False) -> int:
    """Bytes of the weights that attacks and defenses change, or of the `whole` model."""
    networks = [*model.edited.values(), *([model.autoencoder] if whole else [])]
    return sum(p.numel() * p.element_size() for n in networks for p in n.parameters())


def there(folder: Path) -> Path:
    """The path, or the nearest one above it that exists."""
    return next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
