"""What the cells of a run share and are made from: models, prompts, noise, images, judges, and the
measurement of cost."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from torch import nn

from t2i_backdoor_bench.contract import Backdoor, Cell, Prompt, Samples, Trigger
from t2i_backdoor_bench.contract.hashing import digest, plain
from t2i_backdoor_bench.data.perturbations import decoy
from t2i_backdoor_bench.data.splits import required_word
from t2i_backdoor_bench.detecting.screening import answers
from t2i_backdoor_bench.models.catalog import load_base
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.models.offload import placed
from t2i_backdoor_bench.running import attention_maps as maps
from t2i_backdoor_bench.running.conditions import conditions, moved_kinds, noise_seed, noise_seeds
from t2i_backdoor_bench.running.cost import machine, measured, untouched
from t2i_backdoor_bench.running.defended import DEFENDER_PAIRS, defend
from t2i_backdoor_bench.running.display import Display
from t2i_backdoor_bench.running.drawing import Asked, Known, draw, draws_as, known_from
from t2i_backdoor_bench.running.plan import Plan
from t2i_backdoor_bench.scoring.features import Features
from t2i_backdoor_bench.scoring.inception import Inception
from t2i_backdoor_bench.scoring.networks import Lpips
from t2i_backdoor_bench.scoring.scorer import Scorer
from t2i_backdoor_bench.store import provenance
from t2i_backdoor_bench.store.arrays import under
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.targets import kind_of, make_judge
from t2i_backdoor_bench.targets.judge import Judge
from t2i_backdoor_bench.training import probes as probe

SHOWN = 3  # prompts whose pictures the report shows


# ----------------------------------------------------------------------------------------- workshop
class AttackFailed(RuntimeError):
    """The attack of this cell failed before; its traceback is the message."""


class OtherWeights(RuntimeError):
    """A stored cell is of an attack that was trained again, elsewhere, with other weights."""


class Workshop:
    """What the cells of a run share, made when first asked for: the base model, the scorer,
    prompts, the base's own samples, and the attacked models. What costs time is stored in the run
    folder."""

    def __init__(self, plan_: Plan, store: Store, display: Display) -> None:
        self.plan, self.store, self.display = plan_, store, display
        self.size, self.data = plan_.config.size, plan_.data
        self._held: tuple[str, Any] = ("", None)  # the attacked model in memory: one at a time
        self._failed: dict[str, str] = {}
        self._made: tuple[str, Any] = ("", None)  # the last defended model
        self._memo: dict[Any, Any] = {}

    def _arrays(
        self, name: str, make: Callable[[], dict[str, np.ndarray]], meta: dict[str, Any]
    ) -> dict[str, np.ndarray]:
        """Stored arrays, or else made and stored, by one process alone."""
        found = self.store.read_arrays(name)
        if found is not None:
            return found[0]
        with self.store.claim(name, wait=True):
            found = self.store.read_arrays(name)  # another process may have made them meanwhile
            arrays = make() if found is None else found[0]
            if found is None:
                self.store.write_arrays(name, arrays, meta)
        return arrays

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]

    @cached_property
    def model(self) -> T2IModel:
        config = self.plan.config
        for library in (
            diffusers,
            transformers,
        ):  # their loading bars would tear the display, and an error's one line
            library.utils.logging.disable_progress_bar()
        return load_base(config.base, config.device, getattr(torch, config.dtype), config.memory)

    @cached_property
    def features(self) -> Features:
        device = self.plan.config.device
        return Features(
            Scorer.load(self.plan.base.scorer, device),
            Inception.load(device=device),
            lpips=Lpips.load(device),
        )

    def load(self) -> None:
        """Load the base model and the scorer now. Raises UserError where one is not to be had."""
        _ = self.model, self.features

    # -------------------------------------------------------------------------------------- prompts
    def prompts(self, seed: int, source: str = "") -> list[Prompt]:
        return self.once(
            ("prompts", seed, source),
            lambda: self.data.prompts("evaluation", self.size.n, seed, source),
        )

    def real(self, seed: int) -> np.ndarray:
        return self.once(
            ("real", seed), lambda: self.data.pairs("evaluation", self.size.real, seed)[0]
        )

    def backdoor(self, attack: str) -> Backdoor:
        return self.once(
            ("backdoor", attack), lambda: self.plan.attacks[attack].instance.backdoor(self.model)
        )

    def conditions(
        self, seed: int, backdoor: Backdoor | None, source: str
    ) -> dict[str, tuple[list[str], list[int]]]:
        """For each condition, its prompts and noise seeds. Without a backdoor: those of the model
        before the attack."""
        return conditions(
            self.size, self.prompts(seed), self.prompts(seed, source), backdoor, source, seed
        )

    # ---------------------------------------------------------------------------- before the attack
    def before(self, seed: int, source: str) -> dict[str, np.ndarray]:
        """Images of the model before the attack, by condition. Those with a source word share all
        but `clean_target` with the rest."""

        def stored(source: str, wanted: Sequence[str]) -> dict[str, np.ndarray]:
            def draw() -> dict[str, np.ndarray]:
                made = {c: v for c, v in self.conditions(seed, None, source).items() if c in wanted}
                self.display.phase("generate before the attack")
                return {c: self._draw(self.model, c, *pair) for c, pair in made.items()}

            name = f"samples/{self.plan.before_key(seed, source)}"
            return self._arrays(
                name, draw, {"what": "before the attack", "seed": seed, "source": source}
            )

        def make() -> dict[str, np.ndarray]:
            arrays = dict(
                self.once(("before", seed), lambda: stored("", ("clean", "perturbed", "diverse")))
            )
            arrays["clean_target"] = (
                stored(source, ("clean_target",))["clean_target"] if source else arrays["clean"]
            )
            return arrays

        return self.once(("before", seed, source), make)

    def judge(self, attack: str, seed: int) -> Judge | None:
        """The judge of the attack's target, calibrated on what the model draws before the attack;
        None where the target is not known."""
        if not kind_of(self.backdoor(attack).target).judged:
            return None
        return self.once(("judge", attack, seed), lambda: self._make_judge(attack, seed))

    def _make_judge(self, attack: str, seed: int) -> Judge:
        backdoor, source = self.backdoor(attack), self.source(attack)
        kind = kind_of(backdoor.target)
        judge = make_judge(backdoor, self.features)
        clean, prompts = self.before(seed, source)["clean_target"], self.prompts(seed, source)
        name = f"samples/{digest({'before': self.plan.before_key(seed, source), 'positives': plain(backdoor.target)})}"

        def draw() -> dict[str, np.ndarray]:
            if not kind.pastes:
                texts = [kind.asked(backdoor.target, p.text) for p in prompts]
                return {
                    "positives": self._draw(
                        self.model, "positives", texts, noise_seeds(seed, len(texts))
                    )
                }
            # through the autoencoder, as what a backdoored model draws
            shown = kind.paste(clean, backdoor.target)
            latents, batch = self.model.latents(shown, seed), self.model.batch
            return {
                "positives": np.concatenate(
                    [
                        self.model.decode(latents[i : i + batch])
                        for i in range(0, len(latents), batch)
                    ]
                )
            }

        positives = self._arrays(
            name, draw, {"what": "positives of the judge", "attack": attack, "seed": seed}
        )["positives"]
        judge.calibrate(clean, prompts, positives)
        return judge

    def source(self, attack: str) -> str:
        """The word or letter that prompts with a trigger hold without it; "" where any prompt will
        do."""
        backdoor = self.backdoor(attack)
        replaces = backdoor.trigger.replaces if backdoor.trigger else ""
        return self.once(
            ("source", attack), lambda: required_word(self.data, backdoor.target.source, replaces)
        )

    def _draw(self, *asked: Any) -> np.ndarray:
        return draw(self.store.root, *asked)

    # ------------------------------------------------------------------------------ attacked models
    def attacked(self, attack: str, seed: int) -> tuple[T2IModel, dict[str, Any]]:
        """The attacked model and what the attack cost. Trained once, stored, and always read back,
        so that a resumed run sees the same weights as an unbroken one."""
        key = self.plan.attack_key(attack, seed)
        if key in self._failed:
            raise AttackFailed(self._failed[key])
        if self._held[0] == key:
            return self._held[1]
        self._held = ("", None)
        cost, path = self._weights(key)
        if cost is None or path is None:
            with self.store.claim(f"models/{key}", wait=True):
                cost, path = self._weights(key)  # another process may have trained it meanwhile
                if cost is None or path is None:
                    try:
                        cost, path = self._inject(attack, seed, f"models/{key}")
                    except Exception:
                        self._failed[key] = traceback.format_exc()
                        raise
        self._held = (key, (self.model.with_weights(path), cost))
        return self._held[1]

    def _weights(self, key: str) -> tuple[dict[str, Any] | None, Path | None]:
        return self.store.read_record(f"models/{key}"), self.store.find_file(
            f"models/{key}.safetensors"
        )

    @contextmanager
    def reserved(self, attack: str, seed: int) -> Iterator[bool]:
        """Whether this process may work on cells of the attack for the length of the block: its
        weights are there, or it alone is to train them. False where another process is about to
        train it."""
        key = self.plan.attack_key(attack, seed)
        if key in self._failed or self._held[0] == key or None not in self._weights(key):
            yield True
            return
        with self.store.claim(f"models/{key}") as mine:
            yield mine

    def _inject(self, attack: str, seed: int, name: str) -> tuple[dict[str, Any], Path]:
        self.display.phase("train the attack")
        torch.manual_seed(seed)
        with (
            self.aside(self.model),
            untouched(self.model, f"attack {attack}"),
            measured(self.model.device) as cost,
        ):
            model = self.plan.attacks[attack].instance.inject(self.model, self.data, seed)
        cost |= {
            k: model.info[k] for k in ("steps", "parameters", "images", "losses") if k in model.info
        }
        path = self.store.write_file(f"{name}.safetensors", model.save_weights)
        cost["made"] = provenance.here()
        self.store.write_record(name, cost)
        self._say_if_other(attack, seed, self.store.checksum(f"{name}.safetensors"))
        return cost, path

    def _say_if_other(self, attack: str, seed: int, weights: str) -> None:
        """Say that stored cells of an attack are of other weights than those it has now
        (`weights`), as training elsewhere leaves them."""
        stored = [
            self.store.read_result(c.key)
            for c in self.plan.cells
            if (c.attack, c.seed) == (attack, seed)
        ]
        others = sum(
            provenance.other_weights(found.said("attack_weights"), weights)
            for found in stored
            if found
        )
        if others:
            self.display.say(
                f"{attack}, seed {seed}: trained here, its weights are not those of its {others}"
                " stored cells (another machine or other libraries), so that there is nothing to"
                " pair with them; --fresh makes all anew"
            )

    def aside(self, *models: T2IModel) -> AbstractContextManager[None]:
        waiting: list[nn.Module] = []
        if models and "offload" in self.plan.config.memory:
            networks = [n.network for n in (self.features.inception, self.features.lpips) if n]
            waiting = [self.features.scorer.model, *networks]
            waiting += [part for model in models for part in model.idle]
        return placed("cpu", waiting)

    def drop_models(self) -> None:
        """Forget the models in memory; they are read from disk again when needed."""
        self._held = ("", None)
        self.__dict__.pop("model", None)

    # -------------------------------------------------------------------------------------- samples
    def drawn(self, cell: Cell) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The images of a cell by condition, what its model says of prompts (`answers`), and where
        they come from: from the run folder, or else from the defended model, and stored."""
        name = f"samples/{cell.key}"
        found = self.stored_samples(cell)
        if found is None:
            with self.store.claim(name, wait=True):
                found = self.stored_samples(cell)  # another process may have drawn them meanwhile
                if found is None:
                    found = self._draw_cell(cell)
                    self.store.write_arrays(name, *found)
        return found

    def stored_samples(self, cell: Cell) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """The stored images of a cell, as `drawn` returns them, or None."""
        return self._made_of(cell, f"samples/{cell.key}")

    def _made_of(
        self, cell: Cell, name: str
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Stored arrays of a cell. None where there are none, and where they are of other attacked
        weights than those that are stored now: an attack whose weights were lost and that was
        trained again elsewhere is another model."""
        found, now = self.store.read_arrays(name), self.attack_weights(cell)
        before = (found[1].get("made") or {}).get("attack_weights", "") if found is not None else ""
        return None if provenance.other_weights(before, now) else found

    def attack_weights(self, cell: Cell) -> str:
        """The checksum of the attacked weights of a cell, "" before they are there."""
        return self.store.checksum(
            f"models/{self.plan.attack_key(cell.attack, cell.seed)}.safetensors"
        )

    def _draw_cell(self, cell: Cell) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        backdoor, source = self.backdoor(cell.attack), self.source(cell.attack)
        keep = (
            self.plan.config.attention_maps or self.plan.config.probe
        )  # otherwise the model can go
        model, cost, twin = defend(self, cell, whole=keep)
        asked = self.conditions(cell.seed, backdoor, source)
        known, codes = self._known(cell, model, asked, twin)
        if keep:
            self._made = (cell.key, model)
        self.display.phase("screen" if model.screen or model.locate else "generate")
        texts_of = {c: texts for c, (texts, _) in asked.items()}
        if backdoor.trigger is not None:
            targets = self.prompts(cell.seed, source)
            rngs = [np.random.default_rng([cell.seed, 85, i]) for i in range(len(targets))]
            texts_of["decoy"] = [
                decoy(backdoor.trigger, p.text, rng) for p, rng in zip(targets, rngs, strict=True)
            ]
        arrays, ms = answers(model, texts_of)
        self.display.phase("generate")
        for condition, (texts, seeds) in asked.items():
            arrays[condition] = self._draw(model, condition, texts, seeds, known)
        meta = {
            "cell": cell.config,
            "cost": cost | ms,
            "shown": self._shown(cell, source),
            "located": plain(model.located),
        }
        return arrays, meta | {"made": self._origin(cell, codes)}

    def _known(
        self, cell: Cell, model: T2IModel, asked: Asked, twin: Cell | None
    ) -> tuple[Known, list[provenance.Code]]:
        """The pictures that are there already, and the code that drew them: those of the twin, or,
        where the defended model is the attacked one with something round it, those of that."""
        undefended = self.plan.undefended(cell)
        if twin is None and (
            cell.key == undefended.key
            or not draws_as(model, self.attacked(cell.attack, cell.seed)[0])
        ):
            return {}, []
        arrays, meta = self.drawn(twin or undefended)
        return known_from(asked, arrays), meta.get("made", {}).get("codes", [{}])

    def samples(self, cell: Cell) -> Samples:
        """All that a cell is scored by."""
        backdoor, source = self.backdoor(cell.attack), self.source(cell.attack)
        targets, before = self.prompts(cell.seed, source), self.before(cell.seed, source)
        arrays, meta = self.drawn(cell)
        probes = (
            self._probes(cell, backdoor, targets)
            if self.plan.config.probe and backdoor.trigger is not None
            else {}
        )
        images = {k: v for k, v in arrays.items() if "/" not in k} | probes
        refused = {k: v.astype(bool) for k, v in under("refused", arrays).items()}
        refused |= {k: refused["triggered"][: len(v)] for k, v in probes.items() if refused}
        scores = under("score", arrays)
        for kind in (images, refused, scores) if not source else ():
            kind |= {"clean_target": kind["clean"]} if "clean" in kind else {}
        return Samples(
            prompts=self.prompts(cell.seed),
            target_prompts=targets,
            backdoor=backdoor,
            images=images,
            before=before,
            real=self.real(cell.seed),
            per_prompt=self.size.per_prompt,
            moved_kinds=moved_kinds(backdoor, self.size.moved),
            refused=refused,
            scores=scores,
            spans=arrays.get("span/triggered"),
            located=Trigger(**meta["located"]) if meta.get("located") else None,
            cost=meta["cost"],
            key=cell.key,
            made=meta.get("made", {}),
        )

    def _probes(
        self, cell: Cell, backdoor: Backdoor, targets: Sequence[Prompt]
    ) -> dict[str, np.ndarray]:
        """Pictures of the first triggered prompts under the probes, from the run folder or from the
        defended model."""
        found = self._made_of(cell, f"probes/{cell.key}")
        if found is None:
            model = self._model_of(cell)
            self.display.phase("probe")
            prompts = [backdoor.trigger.add(p.text) for p in targets[: self.size.moved]]
            seeds = noise_seeds(cell.seed, len(prompts))
            many = min(DEFENDER_PAIRS, self.data.count("pairs", "train") or DEFENDER_PAIRS)
            later = probe.finetuned(
                model, *self.data.pairs("train", many, cell.seed + 40_011), cell.seed
            )
            arrays = {
                "finetuned": self._draw(later, "finetuned", prompts, seeds),
                "resampled": probe.resampled(model, prompts, seeds),
            }
            self.store.write_arrays(
                f"probes/{cell.key}", arrays, {"cell": cell.config, "made": self._origin(cell, [])}
            )
            return arrays
        return found[0]

    def _model_of(self, cell: Cell) -> T2IModel:
        """The defended model of a cell, made again where it is not the last one."""
        return self._made[1] if self._made[0] == cell.key else defend(self, cell)[0]

    def _origin(self, cell: Cell, codes: Sequence[provenance.Code]) -> dict[str, Any]:
        """Where the images that are drawn now come from: the attacked weights, this machine, the
        code of both, `codes` and this code."""
        name = f"models/{self.plan.attack_key(cell.attack, cell.seed)}"
        attack = (self.store.read_record(name) or {}).get("made", {})
        return {
            "attack_weights": self.attack_weights(cell),
            "machine": machine(self.plan.config.device),
            "codes": provenance.distinct([attack, *codes, provenance.here()]),
        }

    # ------------------------------------------------------------------------------- attention maps
    def map_name(self, cell: Cell) -> str:
        return f"maps/{cell.key}"

    def draw_maps(self, cell: Cell) -> None:
        """Store the attention maps of the cell's model and of the model before the attack, where
        they are not stored."""
        backdoor, source = self.backdoor(cell.attack), self.source(cell.attack)
        if backdoor.trigger is None:
            return
        prompt, seed = self.prompts(cell.seed, source)[0].text, noise_seed(cell.seed, 0)
        before = digest(
            {"maps": self.plan.before_key(cell.seed, source), "trigger": plain(backdoor.trigger)}
        )
        with self.store.claim(f"maps/{before}", wait=True):
            if self.store.read_arrays(f"maps/{before}") is None:
                self.store.write_arrays(
                    f"maps/{before}", *maps.record(self.model, backdoor.trigger, prompt, seed)
                )
        if self._made_of(cell, self.map_name(cell)) is None:
            model = self._model_of(cell)
            self.display.phase("attention maps")
            arrays, meta = maps.record(model, backdoor.trigger, prompt, seed)
            self.store.write_arrays(
                self.map_name(cell),
                arrays,
                meta | {"before": before, "made": self._origin(cell, [])},
            )

    def _shown(self, cell: Cell, source: str) -> dict[str, Any]:
        """What the report needs beside a cell's images: the first clean prompts, and where the
        base's images of them are."""
        prompts = [p.text for p in self.prompts(cell.seed, source)[:SHOWN]]
        return {
            "prompts": prompts,
            "before": self.plan.before_key(cell.seed, source),
            "condition": "clean_target" if source else "clean",
        }
