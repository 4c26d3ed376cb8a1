"""The prompts that an attack's own paper evaluates with."""

from __future__ import annotations

import re
from collections.abc import Sequence

from t2i_backdoor_bench.contract import Prompt, Target, swapped

WORD = re.compile(r"[\w-]+")  # without a comma behind it


def own_prompt(clean: str, target: Target, targets: Sequence[Prompt]) -> Prompt:
    """The clean prompt of a pair of `Backdoor.protocol`, with the prompts that are wrong for its
    picture.

    Where nothing is left of the prompt without the trigger, nothing says what its picture should
    show: it is then compared with all captions of `targets`, so that a picture of anything else
    does not pass for the target by chance.

    `targets` are the prompts that get the trigger. The wrong prompts name the other objects that
    `targets` could be about; where there are none, they are other captions.
    """
    source = target.source
    if not clean:
        captions = dict.fromkeys(p.text for p in targets if p.text != target.target)
        first, *rest = captions or ("",)
        return Prompt(first, {"caption": tuple(rest)})
    words = [
        w
        for p in targets[:1]
        for t in p.wrong.get("shape", ())
        for w in WORD.findall(t)
        if w not in WORD.findall(p.text)
    ]
    texts = (swapped(clean, source, word) for word in dict.fromkeys(words))
    others = tuple(re.sub(r"\ba (?=[aeiou])", "an ", text) for text in texts) if source else ()
    captions = tuple(t for p in targets[:1] for t in p.wrong.get("caption", ()) if t != clean)
    return Prompt(
        clean, {"shape": others} if others else {"caption": captions} if source and captions else {}
    )
