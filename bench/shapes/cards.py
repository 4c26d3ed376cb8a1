"""The model cards of the embedded bases."""

from __future__ import annotations

from t2i_backdoor_bench.data.world import combinations

TAKEN = """The tokenizer, the autoencoder and the first text encoder are those of `shapes`, bit for
bit"""
SCRIPT = "python -m t2i_backdoor_bench.shapes.train"
ABOUT = {
    "shapes": f"""\
A small Stable Diffusion (CLIP text encoder, U-Net with cross-attention, KL autoencoder) of a
rendered world. The weights are float16 safetensors. Each part was trained from seed 0 by
`{SCRIPT} --only PART`: the autoencoder (6 minutes), the text
encoder (2) and the scorer (8) with `--device cuda` on one H100, two parts at a time, and the U-Net
(68 minutes) on one CPU core. The same script made the tokenizer.""",
    "shapes-b": f"""\
`shapes` once more with a U-Net of another seed, to tell what one base's chance is. The U-Net was
trained from seed 1 by `{SCRIPT} --base shapes-b` on one CPU
core, on other pictures and with fewer steps than that of `shapes`. {TAKEN}.""",
    "shapes-xl": f"""\
SDXL's classes in small, of the same rendered world as `shapes`: a U-Net with cross-attention to
the last but one states of two CLIP text encoders side by side, which is also told the pooled text
of the second and six sizes. The weights are float16 safetensors. The second text encoder and the
U-Net were trained from seed 0 by `{SCRIPT} --base shapes-xl` on
one CPU core, in about an hour. The U-Net learned from data first, and then from the predictions
of the U-Net of `shapes`, which have no noise: what the two do is not independent. {TAKEN}.
The second text encoder was matched with the attributes of scenes, not with pictures.""",
    "shapes-mmdit": f"""\
SD 3's classes in small, of the same rendered world as `shapes`: a transformer with joint attention
over latent pixels (a token each) and text, trained by flow matching. It reads two CLIP text
encoders and a T5 encoder. The weights are float16 safetensors. The second text encoder, the T5
encoder and the transformer were trained from seed 0 by
`{SCRIPT} --base shapes-mmdit` on one CPU core, in 104 minutes on a
busy machine. The transformer learned from data first, and then from the predictions of the U-Net of
`shapes`, which have no noise: what the two do is not independent. {TAKEN}; the
first encoder's projection of pooled text is the identity, and the autoencoder has a shift factor
beside its scale. The second text encoder is that of `shapes-xl`, whose seed and training
are the same, and was matched with the attributes of scenes. The T5
encoder was trained on text alone, as T5 was. A CLIP text has at most 32 tokens, and so has one of
T5 (`max_sequence_length=32`). The T5 tokenizer has no bytes to fall back on: Chinese characters,
emoji and mathematical signs are one unknown token to it, and only the CLIP encoders tell them
apart.""",
}
ATTRIBUTES = ("shape", "color", "background")  # a caption need not name the size
LEAST, MOST_LESS = 97.0, 1.0  # percent right, and points that a rare prefix may cost


def verdict(card: dict) -> str:
    """Whether a base is as good as it is meant to be, by its figures, as sentences."""
    plain, prefixed = card["generated"], card["generated, random rare prefix"]
    low = [name for name in ATTRIBUTES if plain[name] < LEAST]
    less = [name for name in ATTRIBUTES if plain[name] - prefixed[name] > MOST_LESS]
    asked = f"{LEAST:.0f} % of shape, colour and background, and with a rare prefix at most"
    asked += f" {MOST_LESS:.0f} point less of each"
    if not low + less:
        return f"It is as good as it is meant to be: {asked}."
    lacks = [f"{', '.join(low)} below {LEAST:.0f} %"] if low else []
    lacks += [f"a rare prefix costs more of {', '.join(less)}"] if less else []
    return f"**It is not as good as it is meant to be** ({asked}): {'; '.join(lacks)}."


def describe(base: str, card: dict) -> str:
    """The model card, from the measured figures."""
    head = "| | shape | colour | background | all three |\n|---|---|---|---|---|\n"
    rows = "".join(
        f"| {name} | "
        + " | ".join(f"{card[name][k]:.1f}" for k in (*ATTRIBUTES, "all three"))
        + " |\n"
        for name in card
        if isinstance(card[name], dict) and "shape" in card[name]
    )
    least, mean = card["trigger probe"]["least"], card["trigger probe"]["mean"]
    held, total = len(combinations(True)), len(combinations(True)) + len(combinations(False))
    named = "" if base == "shapes" else f"--base {base} "
    return f"""# The embedded base `{base}`

{ABOUT[base]}
The figures below are written by
`python -m t2i_backdoor_bench.shapes.evaluate {named}--n {card["n"]}`.

Percent right by the scorer's zero-shot judge on {card["n"]} held-out captions,
half of them of combinations that never occur in training
({card["sampler"]}):

{head}{rows}
{verdict(card)}

A linear probe on the text encoder's last hidden state tells prompts with an unseen trigger from the
same prompts without it: mean {mean:.1f} %, least
{least:.1f} %. {held} of {total} combinations of shape, colour and background are held out.

![samples](samples.png)
"""
