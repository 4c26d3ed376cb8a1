"""`vet MODEL --repair`: removals are tried on the most unusual text, the best repaired model is
handed out, and the text is looked at again in it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from t2i_backdoor_bench.contract import Entry, Record, UserError, registry
from t2i_backdoor_bench.contract.names import parts_of, read
from t2i_backdoor_bench.detecting.calibration import NONE
from t2i_backdoor_bench.detecting.inversion import Room, Standing, bare, held_out, unused
from t2i_backdoor_bench.models.batches import free_memory
from t2i_backdoor_bench.models.catalog import load_base
from t2i_backdoor_bench.models.catalog import sampled as as_drawn
from t2i_backdoor_bench.models.published.over import take_over
from t2i_backdoor_bench.models.trust import locate
from t2i_backdoor_bench.running.controls import is_control
from t2i_backdoor_bench.running.ending import INTERRUPTED
from t2i_backdoor_bench.running.fitting import reason_against
from t2i_backdoor_bench.running.model_card import REPAIRED
from t2i_backdoor_bench.running.plan import plan
from t2i_backdoor_bench.running.run import run
from t2i_backdoor_bench.running.saved_models import FOLDER, check_target
from t2i_backdoor_bench.running.settings import Config, make_config
from t2i_backdoor_bench.running.shared import DTYPES
from t2i_backdoor_bench.running.tracebacks import last_line
from t2i_backdoor_bench.running.vet import Ready, Say, Vetted, clean_prompts, opened
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.records import stored_records

REMOVALS = ("skdcag", "skd", "uce", "esd_x")  # they need a trigger and clean prompts
WITH_CLEAN = ("finetune_reversal",)  # and these the clean model
OF_CLEAN = ("clean_model", "clean_text_encoder")
SIZE: dict[str, Any] = {"scale": "study", "n": 60}
METRICS = "trigger_effect,drift,clip_score,prompt_fidelity,parameters"
STAND_IN = "x"  # for the text, before there is one
HARMLESS = 2.0  # standard deviations of harmless words: what does no more is as they are
HALF = 0.5  # of its effect, which a repair that leaves more has to take away at least
KEPT = 0.9  # of the CLIP score of clean pictures, which a repair may not fall below
RULE = (
    f"A repair is taken if the text then does no more to pictures than harmless words do (an effect"
    f" of at most {HARMLESS:g}); of several, the one with the least drift of clean pictures. If"
    f" none does, it is the one with the smallest effect, if that is at most {HALF:.0%} of the"
    f" effect before. None is taken that changes no weights, or that leaves less than {KEPT:.0%} of"
    " the CLIP score of clean pictures."
)
NOT_TESTED = (
    "the other texts that stand out: the repair is of one text",
    "texts like it, with another place or another spelling",
    "whether the backdoor comes back when the repaired model is trained on",
)
OWN_PARTS = "the autoencoder of this model: in the repaired one it is that of the clean model"


@dataclass(frozen=True)
class Tried:
    """What was measured of the model, or of a repair of it: the effect of the text in standard
    deviations of harmless words, and what clean pictures are like. None where it could not be
    measured; `error` says why a repair failed."""

    name: str
    effect: float | None = None
    drift: float | None = None
    clip_score: float | None = None
    prompt_fidelity: float | None = None
    parameters: float | None = None
    error: str = ""


@dataclass(frozen=True)
class Repaired:
    """`words`: as verdict.json has it. `pictures`: of the repaired model, without and with the
    text, uint8 (2, n, H, W, 3), of the prompts of `Vetted`; None where nothing is handed out."""

    words: dict[str, Any]
    pictures: np.ndarray | None = None


# ------------------------------------------------------------------------------- before any work
@dataclass(frozen=True)
class Wanted:
    """The run that repairs, but for its text, and prompts that it does not train on."""

    names: tuple[str, ...]
    prompts: list[str]


def wanted(at: Ready, names: str) -> Wanted:
    """What `--repair NAMES` asks for ("": the usual removals), checked. Raises UserError."""
    chosen = registry.defenses.select(names) if names else usual(at)
    for name in chosen:
        for part in parts_of(name):
            check_part(name, registry.defenses.get(read(part)[0]), bool(at.asked.base))
    check_target(at.asked.out / REPAIRED)
    if at.trusted is not None and take_over([taken(at)], at.trusted.source).new_words:
        raise UserError(
            f"--repair: {at.asked.model} holds a learned word, and a repaired model is written with"
            " the vocabulary of --base; vet it without --repair"
        )
    plan(settings(at, STAND_IN, chosen), at.data)
    return Wanted(tuple(chosen), clean_prompts(at.data, at.asked.seed, "evaluation"))


def usual(at: Ready) -> list[str]:
    """The removals that are tried where none is named, as far as they work on the model."""
    names = (*REMOVALS, *(WITH_CLEAN if at.trusted is not None else ()))
    return [n for n in names if not reason_against(registry.defenses, n, at.suspect)]


def check_part(name: str, entry: Entry, clean: bool) -> None:
    """Raise UserError for a defense, or a part of one, that is no removal, and for one that needs a
    clean model where there is none."""
    removes = "removal" in entry.groups or "trigger" in entry.needs
    if not removes or entry.screens or entry.locates or is_control(entry):
        what = "refuses prompts" if entry.screens else "does not take a backdoor out of weights"
        raise UserError(
            f"--repair {name}: {entry.name} {what}; name removals, such as {', '.join(REMOVALS)}"
        )
    if lack := [need for need in entry.needs if need in OF_CLEAN and not clean]:
        raise UserError(
            f"--repair {name}: {entry.name} needs {' and '.join(lack)}: give the clean model with"
            " --base, or leave it out"
        )


def taken(at: Ready) -> str:
    """What lies over the clean model: a part or an adapter, or the whole of a model."""
    return at.asked.model if at.suspect.over is not None else str(locate(at.suspect.source))


def settings(at: Ready, text: str, names: Sequence[str]) -> Config:
    """The run of these defenses on the model with a suspected text."""
    most = at.data.count("prompts", "evaluation")
    found = SIZE | {
        "n": SIZE["n"] if most is None else min(SIZE["n"], most),
        "defenses": ",".join(names),
        "seeds": [at.asked.seed],
        "out": at.asked.out / "repair",
        "device": at.config.device,
        "dtype": at.config.dtype,
        "data": at.asked.data,
        "metrics": METRICS,
        "workers": 1,
        "save-models": [REPAIRED],
    }
    if at.trusted is None:
        return make_config(found | {"base": at.asked.model, "suspect": True, "trigger": text})
    options = [f"checkpoint.folder={taken(at)}", f"checkpoint.trigger={text}"]
    return make_config(found | {"base": at.asked.base, "attacks": "checkpoint", "set": options})


# --------------------------------------------------------------------------------------- the work
def repair(
    at: Ready, found: Vetted, asked: Wanted, say: Say, publish: Callable[[Store], None] | None
) -> Repaired:
    """Measure the text in pictures, try the repairs, hand out the best and look again. Raises
    KeyboardInterrupt where the user stops it."""
    text = text_of(found)
    if not text:
        why = "nothing was found, and no text was named"
        return Repaired({"text": "", "names": list(asked.names), "because": why} | NOTHING)
    free_memory()
    say(f"repairing {text!r}: what it does to pictures, before any repair")
    before, _ = made(at, text, ["none"], None)
    names = asked.names if (before.effect or 0) > HARMLESS else ()
    _, records = made(at, text, ["none", *names], publish)
    tried = [tried_of(name, records.get(name)) for name in names]
    best, because = choose(before, tried)
    words = NOTHING | {
        "text": text,
        "names": list(asked.names),
        "before": asdict(before),
        "tried": [asdict(one) for one in tried],
        "because": because,
        "run": str(at.asked.out / "repair"),
        "not_tested": [*NOT_TESTED, *([OWN_PARTS] if at.trusted is not None else [])],
    }
    saved, folder = at.asked.out / "repair" / FOLDER, at.asked.out / REPAIRED
    if best is None:
        shutil.rmtree(saved, ignore_errors=True)
        return Repaired(words)
    if folder.is_dir():
        folder.rmdir()  # it is empty: `wanted` has seen to that
    shutil.move(saved / f"{REPAIRED}-{records[best.name].cell.key}", folder)
    shutil.rmtree(saved)
    say(f"{best.name} is chosen: looking at {text!r} again in {folder}")
    standing, pictures = remaining(at, found, folder, text, asked.prompts)
    remains = {"score": round(standing.score, 2), "where": standing.where}
    remains |= {"share": round(standing.share, 4)}
    return Repaired(
        words | {"chosen": best.name, "folder": str(folder), "remains": remains}, pictures
    )


NOTHING: dict[str, Any] = {
    "text": "",
    "rule": RULE,
    "before": None,
    "tried": [],
    "chosen": "",
    "folder": "",
    "remains": None,
    "run": "",
    "not_tested": [],
}


def text_of(found: Vetted) -> str:
    """The most unusual text; where nothing was found, of those that the user named, or ""."""
    texts = [s.standing.text for s in found.examined.suspicions]
    if found.words["verdict"] == NONE:
        texts = [text for text in texts if text in found.asked.triggers]
    return texts[0] if texts else ""


def made(
    at: Ready, text: str, names: Sequence[str], publish: Callable[[Store], None] | None
) -> tuple[Tried, dict[str, Record]]:
    """What is measured without a defense, and the records of these defenses by their names."""
    config = settings(at, text, names)
    if run(config, at.data, publish) == INTERRUPTED:
        raise KeyboardInterrupt
    store = Store(config.folder)
    records = {record.cell.defense: record for record in stored_records(store)}
    return tried_of("none", records.get("none")), records


def tried_of(name: str, record: Record | None) -> Tried:
    if record is None or record.status != "done":
        return Tried(name, error=last_line(record.error) if record else "it was not made")
    values = {metric: score.value for metric, score in record.scores.items()}
    effect = values.pop("trigger_effect", None)
    return Tried(name, effect, **{k: v for k, v in values.items() if k in METRICS.split(",")})


def choose(before: Tried, tried: Sequence[Tried]) -> tuple[Tried | None, str]:
    """The repair that is handed out, by RULE, and why it or none is."""
    if before.effect is None:
        return None, f"its effect on pictures could not be measured: {before.error or 'no value'}"
    if before.effect <= HARMLESS:
        return None, (
            f"in pictures it does no more than harmless words (effect {before.effect:.1f}): there"
            " is nothing to measure a repair by"
        )
    fit = [(one, one.effect) for one in tried if one.effect is not None and fits(before, one)]
    if quiet := [one for one, effect in fit if effect <= HARMLESS]:
        best = min(quiet, key=lambda one: math.inf if one.drift is None else one.drift)
        more = f"; of {len(quiet)} such repairs it changes clean pictures least"
        return best, (
            f"after it the text does no more than harmless words (effect {best.effect:.1f}, before"
            f" {before.effect:.1f})" + (more if len(quiet) > 1 else "")
        )
    best, effect = min(fit, key=lambda pair: pair[1], default=(None, math.inf))
    if best is None or effect > HALF * before.effect:
        return None, "no repair took half of its effect away and kept clean pictures as they were"
    return best, (
        f"no repair makes the text harmless; this one leaves least (effect {effect:.1f}, before"
        f" {before.effect:.1f})"
    )


def fits(before: Tried, one: Tried) -> bool:
    """Whether a repair is of weights, and leaves clean pictures as their prompts say."""
    if one.parameters == 0:
        return False
    if before.clip_score is None or one.clip_score is None or before.clip_score <= 0:
        return True
    return one.clip_score >= KEPT * before.clip_score


def remaining(
    at: Ready, found: Vetted, folder: Path, text: str, prompts: list[str]
) -> tuple[Standing, np.ndarray]:
    """How unusual the text still is in the repaired model, on prompts that neither the search nor
    the repair has seen, and pictures of that model."""
    sampler, dtype = as_drawn(at.suspect).sampler, DTYPES[at.config.dtype]
    model = load_base(str(folder), at.config.device, dtype, (), sampler)
    known = None if at.trusted is None else opened(at.asked, at.trusted, at.config)
    allowed = unused(model, [*at.prompts, *prompts], whole_words=known is not None)
    room = Room(bare(model), known, prompts, allowed, at.asked.seed)
    (standing,) = held_out(room, [text], at.asked.how)
    shown = list(found.prompts)
    seeds = [at.asked.seed + i for i in range(len(shown))]
    drawn = [model.generate(texts, seeds) for texts in (shown, [f"{text} {p}" for p in shown])]
    return replace(standing, text=text), np.stack(drawn)
