"""The ways in which a model of the zoo gets its score. A defender who vets a checkpoint has clean
prompts, and none with the trigger.

trusted     `vet` beside the clean model
alone       `vet` without it, which is `invert_trigger`
amdet       the verdict of this detector on the model
DETECTORS   these judge prompts. What they are asked are texts before clean prompts: the BEST that
            the search of `alone` put forward for the model, and NOTHING texts of random tokens,
            which mean nothing, all before the same prompts. A text's score is the mean over these
            prompts; the model's is the largest of a text of the search, in standard deviations of
            the texts that mean nothing
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from t2i_backdoor_bench.contract import DefenderView, registry
from t2i_backdoor_bench.data.splits import WorldData
from t2i_backdoor_bench.detecting import inversion
from t2i_backdoor_bench.detecting.effects import Effects, nonsense
from t2i_backdoor_bench.detecting.inversion import Room, Search, Standing, held_out, unused
from t2i_backdoor_bench.detecting.verdict import examine
from t2i_backdoor_bench.models.catalog import load_base
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.running.vet import clean_prompts

SEED = 0  # that of `vet`
MOST_KEPT = 1500  # batches of the base's predictions that are kept for the next model
BEST, NOTHING = 3, 12  # texts that a detector is asked about: of the search, and without a meaning
LEAST_SPREAD = 1e-9  # of the texts without a meaning
# detector: clean prompts that it may learn from, and prompts that each text is put before. A prompt
# is refused by none, so one prompt is enough for a threshold; `ufid` draws ten pictures a prompt.
DETECTORS: dict[str, tuple[int, int]] = {
    "daa_i": (1, 6),
    "daa_s": (1, 6),
    "grainps": (1, 6),
    "navit2i": (1, 6),
    "navit2i_untrusted": (1, 6),
    "set": (60, 6),
    "t2ishield_cda": (60, 6),
    "t2ishield_ftt": (1, 6),
    "tnc": (60, 6),
    "ufid": (1, 2),
}
PROPOSES = "alone"  # whose records have the texts that detectors are asked about
WAYS = ("trusted", PROPOSES, "amdet", *DETECTORS)


@dataclass(frozen=True)
class Model:
    """One of the zoo: its weights and their key, whether it is attacked, with which trigger and how
    well."""

    name: str
    kind: str
    half: str
    key: str
    weights: Path
    trigger: str = ""
    asr: float | None = None
    what: str = ""

    @property
    def facts(self) -> dict[str, Any]:
        known = {"model": self.name, "kind": self.kind, "half": self.half, "key": self.key}
        found = {"attacked": self.asr is not None, "asr": self.asr, "trigger": self.trigger}
        return known | {"what": self.what} | found


class Remembering(Effects):
    """Effects that keep what the base predicts: it is the same beside every model."""

    kept: dict[Any, Tensor] = {}

    def predictions(
        self, model: T2IModel, texts: Sequence[str], weights: Sequence[Any] = ()
    ) -> Tensor:
        if model is not self.trusted:
            return super().predictions(model, texts, weights)
        place = (tuple(texts), float(self.drawn.latents.double().sum()))
        if (found := self.kept.get(place)) is None:
            found = super().predictions(model, texts)
            if len(self.kept) < MOST_KEPT:
                self.kept[place] = found
        return found


@cache
def base() -> T2IModel:
    torch.set_num_threads(1)
    return load_base("shapes", "cpu", torch.float32)


def score_one(model: Model, way: str, proposed: Sequence[str] = ()) -> dict[str, Any]:
    """A model's record, with the time that its score took. `proposed`: the texts that a detector is
    asked about."""
    start, known = time.process_time(), base()
    suspect, prompts = known.with_weights(model.weights), clean_prompts(WorldData(), SEED)
    if way in DETECTORS:
        found = by_detector(suspect, prompts, way, proposed, model.trigger)
    elif way == "amdet":
        found = by_amdet(suspect, prompts)
    else:
        found = by_vet(suspect, prompts, way, model.trigger)
    spent = round(time.process_time() - start, 1)
    return model.facts | {"way": way} | found | {"seconds": spent}


def screen_of(
    suspect: T2IModel, prompts: Sequence[str], name: str, options: Mapping[str, str]
) -> Any:
    """What a detector puts before the model. Of the clean model it gets the text encoder, if it
    asks for that."""
    entry = registry.defenses.get(name)
    view = DefenderView(entry.needs, prompts, clean_text_encoder=base().encoders)
    method = registry.defenses.build(name, "shapes", dict(options))
    return method.apply(suspect, view, SEED).screen


def by_amdet(suspect: T2IModel, prompts: Sequence[str]) -> dict[str, Any]:
    """AMDET's verdict on the model, which is one on its text encoder."""
    verdict = screen_of(suspect, prompts, "amdet", {}).verdict
    return {"texts": [{"text": "", "score": round(verdict, 4)}], "true": None}


def by_detector(
    suspect: T2IModel, prompts: Sequence[str], way: str, proposed: Sequence[str], trigger: str
) -> dict[str, Any]:
    """What a detector of prompts says of the texts of the search, the most suspicious first, and of
    the true trigger in their place."""
    known, asked = DETECTORS[way]
    screen = screen_of(suspect, prompts[:-asked], way, {"prompts": str(known)})
    allowed, longest = unused(suspect, prompts, whole_words=False), Search().longest
    nothing = nonsense(suspect, allowed, NOTHING, SEED + 2, longest)
    texts = [*proposed[:BEST], *([trigger] if trigger else [])]
    scored = screen.scores([f"{t} {p}" for t in [*nothing, *texts] for p in prompts[-asked:]])
    found = standardized(scored.reshape(-1, asked).mean(1), len(nothing))
    told = [{"text": t, "score": round(s, 2)} for t, s in zip(texts, found, strict=True)]
    true = told.pop() if trigger else None
    return {"texts": sorted(told, key=lambda t: -t["score"]), "true": true}


def standardized(scores: np.ndarray, many: int) -> list[float]:
    """The scores behind the first `many`, in standard deviations of these from their mean."""
    usual = scores[:many]
    spread = max(float(usual.std(ddof=1)), LEAST_SPREAD)
    return ((scores[many:] - usual.mean()) / spread).tolist()


def by_vet(suspect: T2IModel, prompts: Sequence[str], way: str, trigger: str) -> dict[str, Any]:
    """What `vet` finds, and how unusual the true trigger is on the same prompts and noise."""
    inversion.Effects = Remembering  # type: ignore[misc]
    trusted = base() if way == "trusted" else None
    room = Room(suspect, trusted, prompts, unused(suspect, prompts, trusted is not None), SEED)
    how = Search()
    found = examine(room, how, known=())
    brief = replace(how, null_again=how.null)
    true = held_out(room, [trigger], brief)[0] if trigger else None
    return {
        "texts": [told(s.standing) | {"origin": s.origin} for s in found.suspicions],
        "true": told(true) if true else None,
    }


def told(found: Standing) -> dict[str, Any]:
    """A text's standing, two decimals each."""
    return {
        "text": found.text,
        "score": round(found.score, 2),
        "parts": [round(p, 2) for p in found.parts],
        "beyond": [round(b, 2) for b in found.beyond],
    }


def proposals(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The texts that the search put forward, the most unusual first, by the key of the model."""
    of_search = [r for r in rows if r["way"] == PROPOSES and "key" in r]
    return {r["key"]: [t["text"] for t in r["texts"]] for r in of_search}
