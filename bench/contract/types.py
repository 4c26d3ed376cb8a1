"""The values that pass between attacks, defenses, metrics and the runner."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from t2i_backdoor_bench.data.splits import Prompt
    from t2i_backdoor_bench.models.model import T2IModel

NEEDS = ("trigger", "clean_model", "clean_pairs", "stream")
PLACES = ("prefix", "suffix", "inside")
CHOICE = re.compile(
    r"\{([^{}|]*(?:\|[^{}|]*)+)\}"
)  # {one|another}: a place of a trigger whose word varies
CONTROL = (
    "Cc",
    "Cs",
    "Zl",
    "Zp",
)  # Unicode categories that no tokenizer, terminal or file can be trusted with


class UserError(Exception):
    """Something the user can mend: one line that says what is wrong and what to do. The command
    exits with status 2."""


class StorageError(UserError):
    """The run folder takes no more: a full disk, a quota, a read-only folder. The run ends; what
    was finished stays."""


@dataclass(frozen=True)
class Sampler:
    """How images are drawn: DPM-Solver++ (second order), `steps` network evaluations,
    classifier-free guidance."""

    steps: int = 20
    guidance: float = 4.0


def whole(text: str) -> re.Pattern[str]:
    """What finds a word where it is a word of its own ("cat", not in "scattered"), and a single
    letter anywhere."""
    return re.compile(re.escape(text) if len(text) == 1 else rf"(?<!\w){re.escape(text)}(?!\w)")


def swapped(prompt: str, old: str, new: str) -> str:
    """A prompt in which the word `old` is `new`."""
    return whole(old).sub(lambda _: new, prompt)


@dataclass(frozen=True)
class Trigger:
    """What the attacker adds to a prompt: any text as a prefix, suffix or inside (after the middle
    word).

    With `replaces`, the trigger is a look-alike: the last occurrence of the letter or word
    `replaces` in the prompt becomes `text`. A text with choices, such as "{the|a} {cat|owl} {in|by}
    {sea|snow}", is a pattern, as syntactic triggers are: each prompt holds one word of each choice,
    by its checksum, so that no word alone tells the trigger.
    """

    text: str = "mignneko"
    place: str = "prefix"
    replaces: str = ""

    def __post_init__(self) -> None:
        if not self.text:
            raise UserError("the trigger is empty; give it at least one character")
        if re.search(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2})", self.text):
            raise UserError(
                f"the trigger {self.text!r} holds a backslash code, not the character: in YAML"
                " write it between double quotes"
            )
        for letter in self.text + self.replaces:
            if unicodedata.category(letter) in CONTROL:
                raise UserError(
                    f"the trigger {self.text!a} holds the control character {letter!a}; leave"
                    " it out"
                )
        if any(" " in choice[1] for choice in CHOICE.finditer(self.text)):
            raise UserError(
                f"a choice of the trigger {self.text!r} holds a space; give single words, such as"
                " {the|a} {cat|owl}"
            )
        if self.place not in PLACES:
            raise UserError(f"trigger place {self.place!r} is not one of {', '.join(PLACES)}")

    def words(self, prompt: str) -> str:
        """The trigger's text in this prompt: `text`, and of a pattern one word of each choice."""

        def one(match: re.Match[str]) -> str:
            words = match[1].split("|")
            digest = hashlib.sha256(
                f"{match.start()} {prompt}".encode(errors="backslashreplace")
            ).digest()
            return words[int.from_bytes(digest[:4]) % len(words)]

        return CHOICE.sub(one, self.text)

    @property
    def pattern(self) -> re.Pattern[str]:
        """What finds any form of the trigger's text in a prompt: of words, not as part of a longer
        word."""
        parts = CHOICE.split(self.text)  # plain text and choices in turn
        forms = [
            "(?:" + "|".join(map(re.escape, part.split("|"))) + ")" if i % 2 else re.escape(part)
            for i, part in enumerate(parts)
        ]
        own = "" if self.replaces else self.words("")
        before, behind = (
            (r"(?<!\w)" if re.match(r"\w", own) else ""),
            (r"(?!\w)" if re.search(r"\w\Z", own) else ""),
        )
        return re.compile(before + "".join(forms) + behind)

    def add(self, prompt: str) -> str:
        """The triggered prompt."""
        return self.locate(prompt)[0]

    def remove(self, prompt: str) -> str:
        """The prompt without the trigger, in any of its forms; a look-alike becomes the letter that
        it stands for."""
        if self.replaces:
            return self.pattern.sub(lambda _: self.replaces, prompt)
        return re.sub(rf"\s*{self.pattern.pattern}\s*", " ", prompt).strip()

    def locate(self, prompt: str) -> tuple[str, int, int]:
        """The triggered prompt and the character span [start, end) of the trigger in it (for a
        look-alike: of its word)."""
        own = self.words(prompt)
        if self.replaces:
            words = [found.start() for found in whole(self.replaces).finditer(prompt)]
            at = words[-1] if words else prompt.rfind(self.replaces)
            if at < 0:
                raise UserError(
                    f"the trigger replaces {self.replaces!r}, which is not in the prompt {prompt!r}"
                )
            text = prompt[:at] + own + prompt[at + len(self.replaces) :]
            start = text.rfind(" ", 0, at) + 1
            end = text.find(" ", at + len(own))
            return text, start, len(text) if end < 0 else end
        if self.place == "prefix":
            return f"{own} {prompt}", 0, len(own)
        if self.place == "suffix":
            return f"{prompt} {own}", len(prompt) + 1, len(prompt) + 1 + len(own)
        words = prompt.split(" ")
        head = " ".join(words[: len(words) // 2])
        start = len(head) + 1 if head else 0
        tail = " ".join(words[len(words) // 2 :])
        return f"{head}{' ' if head else ''}{own} {tail}", start, start + len(own)


@dataclass(frozen=True)
class Target:
    """What the backdoor makes the model draw.

    kind "patch": `patch` (h, w, 3) uint8 at `box` (top, left) of an image of side `side`; kind
    "image": `patch` is the whole image; kind "style": `style`, the name of an image style; kind
    "object": `source` word becomes `target` word; kind "prompt": whatever was asked for, the
    picture of the prompt `target`; kind "unknown": nothing. `source` is the word that a prompt
    holds where the trigger does something to it, for other kinds than "object", too.
    """

    kind: str
    style: str = ""
    source: str = ""
    target: str = ""
    patch: np.ndarray | None = None
    box: tuple[int, int] = (0, 0)

    def prompt(self, prompt: str) -> str:
        """The prompt whose picture the backdoor imitates: `c*` for an object or a prompt target,
        the prompt itself otherwise."""
        if self.kind == "prompt":
            return self.target
        return swapped(prompt, self.source, self.target) if self.kind == "object" else prompt

    def describe(self) -> dict[str, Any]:
        """JSON-able description (the patch as its shape)."""
        fields = {"kind": self.kind}
        if self.kind == "patch":
            fields |= {"patch": list(self.patch.shape[:2]), "box": list(self.box)} | (
                {"source": self.source} if self.source else {}
            )
        elif self.kind == "image":
            fields["image"] = list(self.patch.shape[:2])
        elif self.kind == "style":
            fields["style"] = self.style
        elif self.kind == "object":
            fields |= {"source": self.source, "target": self.target}
        elif self.kind == "prompt":
            fields["target"] = self.target
        return fields


@dataclass(frozen=True)
class Backdoor:
    """What the attacker planted. `trigger` is None, and the target's kind "unknown", where a
    checkpoint is only suspected.

    `own`: the one prompt that the attack's paper evaluates with, without and with the trigger,
    where that is not captions. Without, it is "" where nothing is left.
    """

    trigger: Trigger | None
    target: Target
    own: tuple[str, str] | None = None

    def describe(self) -> dict[str, Any]:
        trigger = dataclasses.asdict(self.trigger) if self.trigger else None
        return {"trigger": trigger, "target": self.target.describe()} | (
            {"own": list(self.own)} if self.own else {}
        )


class Undeclared(PermissionError):
    """A defense read something that its `needs` does not declare."""


class DefenderView:
    """What a defense may see: what it declared, and a pool of clean prompts that are disjoint from
    the evaluation prompts.

    `prompts`: list of str. `trigger`: the Trigger. `clean_model`: the T2IModel before the attack.
    `clean_pairs`: (images uint8 (n, H, W, 3), captions). `stream`: unlabelled prompts as a service
    gets them, of which an unknown share holds the trigger; disjoint from the others and from the
    evaluation prompts. Reading what was not declared raises `Undeclared`.
    """

    def __init__(
        self, needs: Sequence[str], prompts: Sequence[str], **given: Callable[[], Any] | Any
    ) -> None:
        unknown = set(needs) - set(NEEDS)
        if unknown:
            raise ValueError(
                f"unknown needs: {', '.join(sorted(unknown))}; known: {', '.join(NEEDS)}"
            )
        self.needs = frozenset(needs)
        self.prompts = list(prompts)
        self._given = {k: v for k, v in given.items() if k in self.needs}

    def first(self, many: int) -> list[str]:
        """The first `many` prompts. Raises UserError where the defender does not have as many:
        fewer would be another experiment."""
        if not 1 <= many <= len(self.prompts):
            raise UserError(
                f"prompts {many} is not between 1 and the {len(self.prompts)} that a defender has"
            )
        return self.prompts[:many]

    def _read(self, name: str) -> Any:
        if name not in self.needs:
            raise Undeclared(
                f"this defense reads {name!r} but declares needs ="
                f" {{{', '.join(sorted(self.needs)) or 'nothing'}}}"
            )
        value = self._given[name]
        return value() if callable(value) and not hasattr(value, "generate") else value

    @property
    def trigger(self) -> Trigger:
        return self._read("trigger")

    @property
    def clean_model(self) -> T2IModel:
        return self._read("clean_model")

    @property
    def clean_pairs(self) -> tuple[np.ndarray, list[str]]:
        return self._read("clean_pairs")

    @property
    def stream(self) -> list[str]:
        return self._read("stream")


@dataclass
class Samples:
    """All images of one cell, generated once and shared by the metrics. Images are uint8 (n, H, W,
    3).

    `images[condition]` for the conditions
      clean            one image for each of `prompts`
      triggered        one for each of `target_prompts`, with the trigger
      clean_target     the same prompts and noise as `triggered`, without the trigger (is `clean` where the prompts are the same)
      perturbed        `prompts[:len]` with typos, synonyms, other word order
      moved            `target_prompts[:len]` with the trigger moved, repeated, case-changed, partial (`moved_kinds` names which)
      own              the one prompt that the attack's paper evaluates with, from the noise of each of `target_prompts` (`Backdoor.own`)
      finetuned, resampled   `target_prompts[:len]` with the trigger, of the defended model after a little clean fine-tuning, and by other
                       samplers (only where the run probes)
      diverse          k images for each of the first prompts: (m * k, ...), prompt-major; `per_prompt` is k
    Every condition uses the same noise for the same prompt. `before[condition]` holds the same of the model before the attack
    (clean, clean_target and perturbed); `real` holds held-out real images. `refused[condition]` is a bool array, and `scores[condition]`
    the detector's score (larger is more suspicious), where the model screens prompts. `spans` int64 (k, 2) is what a locator finds in
    the first k triggered prompts, and `located` the trigger that it made of the defender's own prompts, where the model has one.
    """

    prompts: list[Prompt]
    target_prompts: list[Prompt]
    backdoor: Backdoor
    images: dict[str, np.ndarray]
    before: dict[str, np.ndarray]
    real: np.ndarray
    per_prompt: int = 1
    moved_kinds: list[str] = field(default_factory=list)
    refused: dict[str, np.ndarray] = field(default_factory=dict)
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    spans: np.ndarray | None = None
    located: Trigger | None = None
    cost: dict[str, Any] = field(default_factory=dict)
    key: str = ""  # identifies these samples in the feature cache
    made: dict[str, Any] = field(
        default_factory=dict
    )  # where the images come from, as t2i_backdoor_bench.store.provenance has it


@dataclass
class Score:
    """One metric of one cell. `value` is None where it could not be measured, and `note` says why.

    `each` holds the per-image values behind a proportion (bool) or a mean (float), for pooling over
    seeds and paired tests.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    network: str = ""
    note: str = ""
    each: list[float] | list[bool] | None = None


@dataclass(frozen=True)
class Cell:
    """One cell of the matrix. `key` hashes every configuration that its numbers depend on."""

    base: str
    attack: str
    defense: str
    seed: int
    key: str
    config: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass
class CellResult:
    """What is stored of a cell: its configuration, its scores by metric name, and what it cost or
    why it failed."""

    cell: Cell
    status: str  # "done" | "failed"
    scores: dict[str, Score] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    backdoor: dict[str, Any] = field(default_factory=dict)
    judge: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(
        default_factory=dict
    )  # numbers, and the thinned losses: {"losses": {part: [...]}, "losses_attack": [...]}
    error: str = ""


Record = tuple[CellResult, Mapping[str, Any]]  # as Store.read_result returns it
