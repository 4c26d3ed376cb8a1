"""The questions of the study of SKD-CAG: which variants of the defense are compared with which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from t2i_backdoor_bench.contract import names as naming

STEPS, ALPHA = 20, 0.5  # the share of the paper
RELEASED_STEPS = 8 * STEPS  # skdcag_released takes one prompt a step, skdcag eight
STYLE_ATTACK, OBJECT, PIXEL = "badt2i_style", "badt2i_object", "badt2i_pixel"
PHRASE = "badt2i_style[trigger=mignneko brelvo]"
ORDER = STYLE_ATTACK, PHRASE, PIXEL, OBJECT
DEFECTS = (
    "detached",
    "shared_maps",
    "uniform_noise",
    "minmax_black",
    "fixed_span",
    "copied_average",
    "unpreserved",
)
MENDED = ("detached", "unpreserved")
# What the rows have alike, whatever the search of settings chose for each method: two rows differ
# in what is asked, and not in a learning rate.
ATTACKED = {"weight": "0.35", "drop": "0.2", "lr": "0.0003", "steps": "500"}
DISTILLED = {"lr": "0.001", "preserve": "64", "latents": "trajectory", "ema": "0.99"}
DESCRIBED = {"lr": "0.0001", "steps": "3520"}
PINNED = {
    "badt2i_style": ATTACKED,
    "badt2i_object": ATTACKED,
    "badt2i_pixel": ATTACKED,
    "skd": DISTILLED,
    "skdcag": DISTILLED,
    "skdcag_released": {"lr": "0.0001"},
    "skdcag_paper": DESCRIBED,
    "skdcag_paper_black": DESCRIBED,
    "skdcag_paper_random_words": DESCRIBED,
}


def variant(method: str, **options: object) -> str:
    """A defense with the study's number of steps and share, unless `options` says otherwise."""
    fixed = {"steps": STEPS} | ({"alpha": ALPHA} if method == "skdcag" else {})
    return naming.label(method, {k: str(v) for k, v in (fixed | options).items()})


def pinned(names: Sequence[str]) -> tuple[str, ...]:
    """The overrides that pin the settings of attacks and defenses of these names."""
    used = sorted({naming.read(name)[0] for name in names} & set(PINNED))
    return tuple(f"{name}.{k}={v}" for name in used for k, v in PINNED[name].items())


def both(option: str, values: Sequence[object], default: object, **fixed: object) -> list[str]:
    """SKD and SKD-CAG with every value of an option. The default value is left out of the name, so
    that several questions share its cells."""
    return [
        variant(m, **fixed, **({} if v == default else {option: v}))
        for v in values
        for m in ("skd", "skdcag")
    ]


def released(**options: object) -> str:
    return variant("skdcag_released", steps=RELEASED_STEPS, **options)


def corrected(wrong: str = "") -> str:
    """The released code with every defect fixed but one. The defect `minmax_black` concerns the
    target black, and so is measured with it."""
    mended = {d: str(d == wrong).lower() for d in DEFECTS}
    return released(target="black" if wrong == "minmax_black" else "gaussian", **mended)


@dataclass(frozen=True)
class Question:
    """Which variants are compared on which attacks.

    Every variant is tested against the first one. If SKD and SKD-CAG alternate (`paired`), each
    SKD-CAG is tested against the SKD before it. `called` has short names for the table.
    """

    title: str
    attacks: tuple[str, ...]
    variants: list[str]
    paired: bool = False
    called: tuple[str, ...] = ()

    def name(self, i: int) -> str:
        return self.called[i] if self.called else f"`{self.variants[i]}`"


SKD, CAG = variant("skd"), variant("skdcag")
QUESTIONS = {
    # with steps enough to converge: the defaults of the row, not those of the study; on the two
    # kinds of backdoors that the paper reports
    "described": Question(
        "As the paper describes it",
        (STYLE_ATTACK, PIXEL),
        [
            "skdcag_paper[alpha=0]",
            "skdcag_paper",
            "skdcag_paper_black",
            "skdcag_paper_random_words",
        ],
        called=(
            "`skd` as described (alpha 0)",
            "`skdcag_paper` (target gaussian)",
            "`skdcag_paper_black`",
            "`skdcag_paper_random_words`",
        ),
    ),
    "alpha": Question(
        "Share of the attention loss",
        (STYLE_ATTACK, OBJECT),
        [
            SKD,
            variant("skdcag", alpha=0.3),
            CAG,
            variant("skdcag", alpha=0.7),
            variant("skdcag", alpha=1),
        ],
    ),
    "targets": Question(
        "What trigger tokens should attend to",
        (STYLE_ATTACK, OBJECT, PIXEL),
        [
            SKD,
            variant("skdcag", target="gaussian"),
            CAG,
            variant("skdcag", target="random_words"),
        ],  # CAG's own target is black
    ),
    "steps": Question(
        "Steps of training",
        (STYLE_ATTACK, OBJECT),
        both("steps", (10, 20, 30, 60, 150), STEPS),
        True,
    ),
    "prompts": Question(
        "Prompts of the defender", (STYLE_ATTACK,), both("prompts", (10, 30, 100, 300), 100), True
    ),
    "latents": Question(
        "Where the latents come from",
        (STYLE_ATTACK,),
        both("latents", ("trajectory", "own", "noise"), "trajectory"),
        True,
    ),
    "preserve": Question(
        "Weight of the clean-prompt term", (STYLE_ATTACK,), both("preserve", (0, 2, 64), 64), True
    ),
    "bias": Question(
        "Bias to high noise", (STYLE_ATTACK,), both("bias", (1, 2, 3), 1, latents="own"), True
    ),
    "time": Question(
        "Weight of the attention loss over time",
        (STYLE_ATTACK,),
        [
            CAG,
            variant("skdcag", time_weight="true"),
            variant("skdcag", time_weight="true", reverse_time="true"),
        ],
    ),
    "known": Question(
        "One of the trigger's two words",
        (PHRASE,),
        both("known", ("all", "first", "last"), "all"),
        True,
    ),
    "released": Question(
        "As released, and each defect alone",
        (STYLE_ATTACK,),
        [
            corrected(),
            *(corrected(d) for d in DEFECTS),
            released(),
            *(released(**{d: "false"}) for d in MENDED),
        ],
        called=(
            "every defect mended",
            *(f"`{d}` alone" + " (target black)" * (d == "minmax_black") for d in DEFECTS),
            "as released",
            *(f"as released, `{d}` mended" for d in MENDED),
        ),
    ),
}
