"""What two clean models of other seeds draw of the same prompts and noise: the scale for how far a
picture may be from what the model drew before the attack, and for what counts as a trace."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from t2i_backdoor_bench.contract import PROTOCOL, Prompt
from t2i_backdoor_bench.contract.hashing import digest
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.running.conditions import noise_seed
from t2i_backdoor_bench.running.known_pictures import draw
from t2i_backdoor_bench.running.shared import Shared
from t2i_backdoor_bench.scoring.outcomes import Limits, choose_limits, color_distance
from t2i_backdoor_bench.targets import kind_of
from t2i_backdoor_bench.targets.judge import Judge
from t2i_backdoor_bench.training.denoising import Term, train_terms
from t2i_backdoor_bench.training.loop import Optim

PICTURES, FEWEST = 64, 8  # prompts; not many more than a small run has
PAIRS = 256  # captioned pictures that the second model is trained on
# The embedded base's limit hardly depends on the number of steps: 0.31, 0.27 and 0.33 with 20, 60
# and 200 of them at this rate, which is that of the defense clean_finetune.
STEPS, FEWEST_STEPS, BATCH, DROP = 20, 10, 16, 0.1
RATE = {"shapes": 1e-3, "sd": 1e-4}
PART = {"shapes": "full", "sd": "kv"}  # all of Stable Diffusion would need tens of gigabytes
OFFSET = 60_013  # added to the seed: these pictures and prompts are not those of an attack


def limits_of(shared: Shared, seed: int) -> Limits:
    """How far pictures of two clean models are from each other."""

    def make() -> Limits:
        pictures = two_models(shared, seed)
        pair = pictures["second"], pictures["first"]
        return choose_limits(shared.features.distances(*pair), color_distance(*pair))

    return shared.once(("limits", seed), make)


def calibrate_trace(shared: Shared, judge: Judge, seed: int) -> None:
    """Choose the threshold of a judge's trace on pictures of two clean models, and of the second
    with a weakened target."""
    target, kind = judge.target, kind_of(judge.target)
    pictures = two_models(shared, seed)
    clean, references = pictures["second"], pictures["first"]
    positives: np.ndarray | None = None
    if kind.pastes:
        # through the autoencoder, as a backdoored model draws
        weak = shared.model.decode(shared.model.latents(kind.weakened(clean, target, None), seed))
    else:
        texts = [wanted(p, kind.asked(target, p.text)) for p in development(shared, seed)]
        positives = _drawn(shared, seed, "as the backdoor asks", texts)
        weak = kind.weakened(clean, target, positives)
    judge.trace.calibrate(clean, references, weak, positives)


def wanted(prompt: Prompt, asked: str) -> str:
    """What a backdoor asks for instead of a prompt; where it leaves the prompt as it is, one that
    is wrong in one thing."""
    others = (text for wrong in prompt.wrong.values() for text in wrong)
    return asked if asked != prompt.text else next(others, asked)


def development(shared: Shared, seed: int) -> list[Prompt]:
    """Prompts that nothing is evaluated on."""
    many = min(PICTURES, max(FEWEST, shared.size.n))
    few = min(many, shared.data.count("prompts", "development") or many)
    return shared.once(
        ("development", seed), lambda: shared.data.prompts("development", few, seed + OFFSET)
    )


def two_models(shared: Shared, seed: int) -> dict[str, np.ndarray]:
    """Pictures uint8 (n, H, W, 3) of the `first` and the `second` model: the base, and a copy that
    a little fine-tuning on clean captioned pictures has moved. Stored once a run and seed."""

    def make() -> dict[str, np.ndarray]:
        texts = [p.text for p in development(shared, seed)]
        first = _drawn(shared, seed, "by the model before the attack", texts)
        return {"first": first, "second": _drawn(shared, seed, "by a second clean model", texts)}

    return shared.once(("two models", seed), make)


def _drawn(shared: Shared, seed: int, what: str, texts: Sequence[str]) -> np.ndarray:
    """Pictures of texts, stored or else drawn."""
    second, key = what == "by a second clean model", {"shared": shared.plan.shared}
    key |= {"protocol": PROTOCOL, "seed": seed, "what": what, "texts": list(texts)}
    key |= {"steps": steps(shared)} if second else {}

    def make() -> dict[str, np.ndarray]:
        shared.display.phase("calibrate")
        model = second_model(shared, seed) if second else shared.model
        seeds = [noise_seed(seed + OFFSET, i) for i in range(len(texts))]
        return {"images": draw(shared.store.root, model, what, texts, seeds)}

    meta = {"what": f"development prompts {what}", "seed": seed}
    return shared.stored_arrays(f"samples/{digest(key)}", make, meta)["images"]


def steps(shared: Shared) -> int:
    """How long the second model is trained: shorter in runs that train or draw less."""
    few = shared.size.training * min(1.0, shared.size.n / PICTURES)
    return max(FEWEST_STEPS, round(STEPS * few))


def second_model(shared: Shared, seed: int) -> T2IModel:
    """A copy of the base that a little fine-tuning on clean captioned pictures has moved."""
    base = shared.model
    many = min(PAIRS, steps(shared) * BATCH)
    many = min(many, shared.data.count("pairs", "train") or many)
    images, captions = shared.data.pairs("train", many, seed + OFFSET)
    with shared.offloaded(base):
        model = base.clone(train=PART[base.settings])
        terms = [Term(captions, base.latents(images, seed), drop=DROP)]
        optim = Optim(steps(shared), RATE[base.settings], BATCH, decay=0.5)
        train_terms(
            model, None, terms, optim, seed + OFFSET, "a second clean model", PART[base.settings]
        )
    return model
