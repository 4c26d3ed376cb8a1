"""`vet MODEL`: is there a backdoor in a model that others made, which texts bring it, and what do
they do?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from t2i_backdoor_bench.contract import Data, UserError
from t2i_backdoor_bench.data.text_tables import text_of
from t2i_backdoor_bench.detecting.calibration import BACKDOOR, NONE, UNSURE, calibration, verdict
from t2i_backdoor_bench.detecting.candidates import hidden, of_log, published, readable
from t2i_backdoor_bench.detecting.inversion import Room, Search, bare, unused
from t2i_backdoor_bench.detecting.verdict import WORDS, Examined, Suspicion, examine
from t2i_backdoor_bench.models.catalog import Base, find_base, is_over, load_base, with_over
from t2i_backdoor_bench.models.catalog import sampled as as_drawn
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.running.checks import check_settings, precision
from t2i_backdoor_bench.running.choose_data import choose_data
from t2i_backdoor_bench.running.devices import find_device, use_processor
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.running.shared import DTYPES
from t2i_backdoor_bench.running.vet_time import Progress, rows_of, seconds_a_row, words

PROMPTS = 100  # clean prompts, of which each round of the search takes some
SHOWN = 4  # prompts whose pictures are shown
STATUS = {NONE: 0, BACKDOOR: 3, UNSURE: 4}  # 1 and 2 are those of failures and bad flags
NOT_TESTED = (
    "triggers that only a longer phrase, a sentence's form or a word's place brings",
    "backdoors that need no trigger, such as a logo in every picture",
    "backdoors in the autoencoder, and what code or pickled files beside the weights would do",
)
ALONE_NOT_TESTED = "triggers that are ordinary words: their effect may be their meaning"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """What a user asked. `model`: a folder, a hub id, or a part of a model that goes over `base`;
    `base`: the clean model that it was made from, or ""; `triggers`: texts to look at; `log`: a
    file with prompts as users wrote them."""

    model: str
    out: Path
    base: str = ""
    triggers: tuple[str, ...] = ()
    log: Path | None = None
    data: str = ""
    device: str = "auto"
    dtype: str = "auto"
    seed: int = 0
    how: Search = field(default_factory=Search)


@dataclass(frozen=True)
class Vetted:
    """What was found. `pictures`: without and with the most unusual text, and with it by the
    trusted model where there is one, uint8 (2 or 3, n, H, W, 3), of `prompts` (n)."""

    asked: Asked
    settings: str
    examined: Examined
    pictures: np.ndarray
    prompts: tuple[str, ...]

    @property
    def way(self) -> str:
        return "trusted" if self.asked.base else "alone"

    @property
    def words(self) -> dict[str, Any]:
        """As verdict.json has it."""
        score = self.examined.score
        decided, because = verdict(score, calibration(self.settings, self.way))
        return {
            "verdict": decided,
            "score": round(score, 2),
            "because": because,
            "model": self.asked.model,
            "compared_with": self.asked.base,
            "seed": self.asked.seed,
            "texts": [described(s) for s in self.examined.suspicions],
            "tried": {WORDS[kind]: many for kind, many in self.examined.counts.items()},
            "not_tested": [*NOT_TESTED, *([] if self.asked.base else [ALONE_NOT_TESTED])],
        }


def described(suspicion: Suspicion) -> dict[str, Any]:
    found = suspicion.standing
    return {
        "text": found.text,
        "origin": WORDS[suspicion.origin],
        "score": round(found.score, 2),
        "where": found.where,
        "share": round(found.share, 4),
    }


def texts_of(given: Sequence[str] | None, file: Path | None) -> tuple[str, ...]:
    """The texts that a user named, one by one and in a file. Raises UserError."""
    found = [*(given or ()), *(lines_of(file, "--triggers", "text") if file else ())]
    for text in found:
        if not readable(text):
            raise UserError(f"--trigger {text!r} cannot be a trigger: it is empty or unprintable")
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True)
class Ready:
    """What was checked before any work: where the models are, the settings, clean prompts of a
    defender, and texts of the log."""

    asked: Asked
    suspect: Base
    trusted: Base | None
    config: Config
    data: Data
    prompts: list[str]
    log: list[str]


def ready(asked: Asked, say: Say) -> Ready:
    """Everything is checked before any work. Raises UserError."""
    suspect, trusted = bases_of(asked)
    device = find_device(asked.device)
    config = Config(
        base=asked.base or asked.model,
        device=device,
        dtype=asked.dtype,
        data=asked.data,
        out=asked.out,
    )
    config = replace(config, dtype=precision(config, suspect))
    check_settings(config)
    data = choose_data(config, suspect)
    prompts = clean_prompts(data, asked.seed)
    log: list[str] = []
    if asked.log:
        written = lines_of(asked.log, "--prompts", "prompt")
        log = of_log(written, prompts)
        say(f"{len(written)} prompts in {asked.log}: {len(log)} texts of them are looked at")
    return Ready(asked, suspect, trusted, config, data, prompts, log)


def vet(at: Ready, say: Say) -> Vetted:
    """Search, look again, and draw. Raises UserError for models of two families."""
    asked, prompts = at.asked, at.prompts
    use_processor(replace(at.config, threads=1 if at.suspect.settings == "shapes" else None))
    model = opened(asked, at.suspect, at.config)
    known = None
    if at.trusted is not None:
        known = opened(asked, at.trusted, at.config)
        if type(known.denoiser) is not type(model.denoiser):
            raise UserError(
                f"--base {asked.base} is of another family than {asked.model}: give the model that"
                " it was made from"
            )
    found = looked_at(at, model, known, say)
    text = found.suspicions[0].standing.text
    shown = prompts[:SHOWN]
    say(f"drawing pictures without and with {text!r}")
    seeds = [asked.seed + i for i in range(len(shown))]
    triggered = [f"{text} {p}" for p in shown]
    drawn = [model.generate(shown, seeds), model.generate(triggered, seeds)]
    drawn += [known.generate(triggered, seeds)] if known is not None else []
    return Vetted(asked, at.suspect.settings, found, np.stack(drawn), tuple(shown))


def looked_at(at: Ready, model: T2IModel, known: T2IModel | None, say: Say) -> Examined:
    """What `examine` finds. How long it takes is said before it, and what is left meanwhile."""
    asked, how = at.asked, at.asked.how
    models = [model] if known is None else [model, known]
    allowed = unused(model, at.prompts, whole_words=known is not None)
    decode = model.text_part.tokenizer.decode
    singles = len({decode([i]).strip() for i in allowed})
    given = len({*published(), *hidden(), *at.log, *asked.triggers})
    named, guided = len(asked.triggers), models[-1].guided > 1
    rows = rows_of(how, singles, given, named, len(models), guided)
    seconds = rows * seconds_a_row(model, at.prompts, how.asked)
    say(f"the search: {words(seconds)} on {at.config.device} ({rows:,} rows of the denoiser)")
    progress = Progress(rows, say)
    room = Room(bare(model), known, at.prompts, allowed, asked.seed, progress.tell)
    with progress.counting(models):
        return examine(room, how, asked.triggers, at.log)


def bases_of(asked: Asked) -> tuple[Base, Base | None]:
    """Where the suspect and the trusted model are. A part of a model lies over the base."""
    trusted = find_base(asked.base) if asked.base else None
    if trusted is not None and is_over(Path(asked.model)):
        return with_over(trusted, asked.base, [asked.model]), trusted
    return find_base(asked.model), trusted


def opened(asked: Asked, base: Base, config: Config) -> T2IModel:
    base = as_drawn(base)
    name = asked.base if base.over is not None and asked.base else base.source
    return load_base(name, config.device, DTYPES[config.dtype], (), base.sampler, base.over)


def clean_prompts(data: Data, seed: int, split: str = "defender") -> list[str]:
    most = data.count("prompts", split)
    many = PROMPTS if most is None else min(PROMPTS, most)
    if many < 16:
        raise UserError(f"the data has {many} clean prompts for a {split}; 16 are the least")
    return [prompt.text for prompt in data.prompts(split, many, seed)]


def lines_of(path: Path, flag: str, what: str) -> list[str]:
    """The lines of a text file that are not empty. Raises UserError."""
    if path.suffix.casefold() != ".txt" or not path.is_file():
        raise UserError(f"{flag} {path} must be a .txt with a {what} a line")
    lines = text_of(path.read_bytes())[0].splitlines()
    return [line.strip() for line in lines if line.strip()]
