"""Which source files made a stored cell, which of them have changed since, and what must go so that
a cell is made anew.

A record names its sources by stage (attack, defense, pictures, scores), each as the digest of a
list that lies in the run folder, `sources/<digest>.json`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from t2i_backdoor_bench.contract import Cell, Record
from t2i_backdoor_bench.contract.hashing import digest
from t2i_backdoor_bench.running.method import Method
from t2i_backdoor_bench.running.plan import Plan
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.record_format import SOURCES
from t2i_backdoor_bench.store.sources import NAME, changed, short, sources_of

STAGES = ("attack", "defense", "pictures", "scores")
PICTURES = ("conditions", "pictures", "known_pictures", "prompts")
SCORES = ("clean", "scores")
NAMED = 4  # changed files that a line names


def attack_sources(plan: Plan, attack: str) -> dict[str, str]:
    """The sources that an attack's weights depend on."""
    method = plan.attacks[attack]
    tried = [type(method.instance).__module__, f"{NAME}.running.defender"] if method.against else []
    return sources_of([*_modules([*method.trained, *method.against]), *tried])


def defense_sources(plan: Plan, defense: str) -> dict[str, str]:
    """The sources that a defense depends on, beside those of the attack."""
    return sources_of([*_modules(plan.defenses.get(defense, ())), f"{NAME}.running.view"])


def picture_sources() -> dict[str, str]:
    """The sources that say what is drawn, and draw it."""
    own = [f"{NAME}.running.{name}" for name in PICTURES]
    return sources_of([*own, f"{NAME}.models.model", f"{NAME}.data.perturbations"])


def score_sources(plan: Plan) -> dict[str, str]:
    """The sources of all metrics of a run, and of its judges."""
    own = [f"{NAME}.running.{name}" for name in SCORES]
    return sources_of([*_modules(plan.metrics.values()), *own, f"{NAME}.scoring.features"])


def _modules(methods: Iterable[Method]) -> list[str]:
    return [type(method.instance).__module__ for method in methods]


def keep(store: Store, sources: Mapping[str, str]) -> str:
    """Store a list of sources, and return its digest."""
    name = digest(sources)[:16]
    if not store.path(f"sources/{name}.json").is_file():
        store.write_record(f"sources/{name}", dict(sources))
    return name


def changes(plan: Plan, store: Store, cell: Cell, record: Record) -> dict[str, list[str]]:
    """By stage, the source files that made a stored cell and are other ones now. A record that does
    not name its sources has none: nothing is known of it."""
    stored = record.provenance.get("sources") or {}
    now = {
        "attack": lambda: attack_sources(plan, cell.attack),
        "defense": lambda: defense_sources(plan, cell.defense),
        "pictures": picture_sources,
        "scores": lambda: score_sources(plan),
    }
    found = {}
    for stage in STAGES:
        name = stored.get(stage)
        before = store.read_record(f"sources/{name}", SOURCES) if name else None
        other = changed(before, now[stage]()) if before else []
        if stage == "scores":  # of a metric that is not in this run nothing is computed anew
            other = [m for m in other if not m.startswith(f"{NAME}.metrics.")] + [
                m for m in other if m in _modules(plan.metrics.values())
            ]
        if other:
            found[stage] = [short(module) for module in other]
    return found


def outdated(plan: Plan, store: Store, stored: Mapping[str, Record | None]) -> dict[str, list[str]]:
    """By key, the stages of stored cells whose sources have changed; one line says what, and how to
    make them anew."""
    stages, files = {}, {}
    for cell in plan.cells:
        record = stored.get(cell.key)
        if record is None or record.status != "done":
            continue
        if found := changes(plan, store, cell, record):
            stages[cell.key] = list(found)
            files |= dict.fromkeys(f for names in found.values() for f in names)
    if stages and not plan.config.renew:
        more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
        store.say(
            f"{len(stages)} stored cells were made by older code (changed since:"
            f" {', '.join(list(files)[:NAMED])}{more}); they stay as they are, and --renew makes"
            " them anew"
        )
    return stages


def renew(plan: Plan, store: Store, stages: Mapping[str, Sequence[str]]) -> None:
    """Remove what must be made anew of outdated cells: the scores; the pictures where more than
    the scores changed; the attacked weights where the attack did."""
    anew = False
    for cell in plan.cells:
        found = set(stages.get(cell.key, ()))
        if not found:
            continue
        store.drop_result(cell.key)
        if found != {"scores"}:
            store.drop_file(f"samples/{cell.key}.safetensors")
        if "attack" in found:
            store.drop_file(f"models/{plan.attack_key(cell.attack, cell.seed)}.safetensors")
        anew |= "pictures" in found
    if anew:  # what the model draws before the attack, and what judges are calibrated on
        for path in store.files("samples", ".safetensors"):
            stored = store.read_arrays(f"samples/{path.stem}")
            if stored is None or (stored[1] or {}).get("what"):
                store.drop_file(f"samples/{path.name}")
