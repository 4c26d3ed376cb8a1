"""What the model draws before the attack, and the judge that is calibrated on it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from t2i_backdoor_bench.contract.hashing import digest, plain
from t2i_backdoor_bench.running.conditions import conditions, noise_seeds
from t2i_backdoor_bench.running.known_pictures import draw, draw_all
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.running.two_models import calibrate_trace
from t2i_backdoor_bench.targets import kind_of, make_judge
from t2i_backdoor_bench.targets.judge import Judge


def clean_pictures(shared: Shared, seed: int, source: str) -> dict[str, np.ndarray]:
    """Images of the model before the attack, by condition. Those with a source word share all but
    `clean_target` with the others."""

    def make() -> dict[str, np.ndarray]:
        every = ("clean", "perturbed", "diverse")
        common = shared.once(("clean", seed), lambda: _stored(shared, seed, "", every))
        if not source:
            return common | {"clean_target": common["clean"]}
        return dict(common) | _stored(shared, seed, source, ("clean_target",))

    return shared.once(("clean", seed, source), make)


def _stored(shared: Shared, seed: int, source: str, wanted: Sequence[str]) -> dict[str, np.ndarray]:
    def make() -> dict[str, np.ndarray]:
        asked = conditions(
            shared.size, shared.prompts(seed), shared.prompts(seed, source), None, source, seed
        )
        shared.display.phase("generate before the attack")
        asked = {condition: pairs for condition, pairs in asked.items() if condition in wanted}
        return draw_all(shared.store.root, shared.model, asked, {})

    name = f"samples/{shared.plan.before_key(seed, source)}"
    meta = {"what": "before the attack", "seed": seed, "source": source}
    return shared.stored_arrays(name, make, meta)


def judge_of(shared: Shared, attack: str, seed: int) -> Judge | None:
    """The judge of the attack's target, calibrated on what the model draws before the attack; None
    where the target is not known."""
    if not kind_of(shared.backdoor(attack).target).judged:
        return None
    return shared.once(("judge", attack, seed), lambda: _make_judge(shared, attack, seed))


def _make_judge(shared: Shared, attack: str, seed: int) -> Judge:
    source = shared.source(attack)
    judge = make_judge(shared.backdoor(attack), shared.features)
    clean = clean_pictures(shared, seed, source)["clean_target"]
    judge.calibrate(clean, shared.prompts(seed, source), positives_of(shared, attack, seed))
    calibrate_trace(shared, judge, seed)
    return judge


def positives_of(shared: Shared, attack: str, seed: int) -> np.ndarray | None:
    """What the attack's backdoor asks for, drawn by the model before the attack: one picture uint8
    (H, W, 3) for each prompt that gets the trigger, from the same noise; None where the target is
    not known."""
    backdoor, source = shared.backdoor(attack), shared.source(attack)
    kind = kind_of(backdoor.target)
    if not kind.judged:
        return None
    before = shared.plan.before_key(seed, source)
    name = f"samples/{digest({'before': before, 'positives': plain(backdoor.target)})}"

    def make() -> dict[str, np.ndarray]:
        model = shared.model
        if not kind.pastes:
            texts = [kind.asked(backdoor.target, p.text) for p in shared.prompts(seed, source)]
            seeds = noise_seeds(seed, len(texts))
            return {"positives": draw(shared.store.root, model, "positives", texts, seeds)}
        # through the autoencoder, as a backdoored model draws
        clean = clean_pictures(shared, seed, source)["clean_target"]
        latents = model.latents(kind.paste(clean, backdoor.target), seed)
        starts = range(0, len(latents), model.batch)
        parts = [model.decode(latents[i : i + model.batch]) for i in starts]
        return {"positives": np.concatenate(parts)}

    meta = {"what": "positives of the judge", "attack": attack, "seed": seed}
    return shared.stored_arrays(name, make, meta)["positives"]
