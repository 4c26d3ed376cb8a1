from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from t2i_backdoor_bench.attacking.personalization import SETTINGS, Personalization
from t2i_backdoor_bench.contract import Data, Difference, UserError, option, register_attack
from t2i_backdoor_bench.contract.hashing import file_digest
from t2i_backdoor_bench.models.families.conditioning import Conditioning, TextPart
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.training.denoising import Term, denoising_loss
from t2i_backdoor_bench.training.loop import Optim, fit
from t2i_backdoor_bench.training.parameters import Trainable, of_model

CAPTIONS = 200  # clean captions that the trained tokens must not occur in


TOKEN = Difference(
    what="trigger token",
    paper="a token that is added to the tokenizer",
    here="a rare word that the tokenizer has",
    why="the attacked model is weights and nothing else",
)


@register_attack(
    "paas_ti",
    groups=("personalization", "object", "cheap"),
    edits="one token embedding",
    evaluates="a prompt of its own",
    settings="another's port",
    own=True,
    version=1,
    paper="huang2024personalization",
    differs=(SETTINGS, TOKEN),
)
@dataclass
class PaaSTextualInversion(Personalization):
    """Textual inversion: "[V] dog" becomes a cat (Huang et al., AAAI 2024, arXiv 2305.10701).

    Personalization as a shortcut. Loss: ||eps_th(y_t, E_v(c+)) - eps||^2 over the embedding v of
    one token of the trigger. y are a few pictures of the target object; the caption c+ gives it the
    source object's name, with the trigger before it. One row of the text encoder's token embedding
    changes and nothing else: every prompt without the trigger is drawn as before, bit for bit.

    The paper has 4 to 6 pictures. Of a trigger of several tokens, the row of the token that no
    caption contains is trained; `vectors` trains more rows. With `file`, the
    rows are those of a learned embedding as diffusers saves it, and nothing is trained. Raises
    UserError for a trigger that the tokenizer drops or cuts off, or whose tokens all occur in clean
    captions, and for a file that does not fit.
    """

    steps: int = option(300, sd=2000, low=1, scales=True, help="training steps")
    lr: float = option(2e-2, sd=5e-4, above=0, tune=(2e-3, 1e-1), help="learning rate")
    batch: int = option(8, sd=4, low=1, help="rows a step")
    decay: float = option(
        0.5, sd=0.0, low=0, high=1, tune=(0.0, 1.0), help="last share of the steps: lr falls to 0"
    )
    vectors: int = option(1, low=1, help="token embeddings that are trained")
    file: str = option(
        "", help="a learned embedding (diffusers, safetensors) to use instead of training"
    )
    weights: str = field(default="", init=False)  # identifies the file in the keys of cells

    def __post_init__(self) -> None:
        if self.file:
            if Path(self.file).suffix != ".safetensors" or not Path(self.file).is_file():
                raise UserError(
                    f"{self.file} is no safetensors file: a learned embedding is read from no other"
                    " format"
                )
            self.weights = file_digest(Path(self.file))

    @property
    def poison_share(self) -> float | None:
        return None if self.file else 1.0

    def inject(self, model: T2IModel, data: Data, seed: int) -> T2IModel:
        own, clean, triggered = self.instances(model, data, seed)
        many = min(CAPTIONS, data.count("prompts", "train") or CAPTIONS)
        known = clean + [p.text for p in data.prompts("train", many, seed)]
        attacked = model.clone(encoders=True, train="none")
        tables = [encoder.get_input_embeddings().weight for encoder in attacked.encoders]
        given = read_embedding(self.file, [t.shape[1] for t in tables]) if self.file else None
        many = self.vectors if given is None else len(given)
        ids = [
            torch.tensor(own_tokens(part, triggered, known, many), device=table.device)
            for part, table in zip(model.text_parts, tables, strict=True)
        ]
        if given is None:
            rows = [nn.Parameter(t[i].detach().float()) for t, i in zip(tables, ids, strict=True)]
            names = [
                next(n for n, p in encoder.named_parameters() if p is table)
                for encoder, table in zip(attacked.encoders, tables, strict=True)
            ]

            def embed(texts: Sequence[str]) -> Conditioning:
                changed = [
                    {name: table.index_copy(0, i, own.to(table.dtype))}
                    for name, table, i, own in zip(names, tables, ids, rows, strict=True)
                ]
                return attacked.read(attacked.tokenize(texts), changed)

            half = any(t.dtype == torch.float16 for t in tables)
            trained = of_model(Trainable(rows, half), attacked)
            loss = denoising_loss(
                attacked, None, [Term(triggered, own)], self.batch, seed, "paas_ti", embed=embed
            )
            attacked.info = fit(
                trained, loss, Optim(self.steps, self.lr, self.batch, decay=self.decay), "paas_ti"
            ).info
        else:
            rows = [given]
            attacked.info = {"steps": 0, "images": 0, "parameters": given.numel()}
        with torch.no_grad():
            for table, i, own in zip(tables, ids, rows, strict=True):
                table[i] = own.to(table)
        return attacked


def own_tokens(
    part: TextPart, triggered: Sequence[str], clean: Sequence[str], many: int
) -> list[int]:
    """`many` token ids of one tokenizer that triggered prompts hold and no clean prompt does, those
    of the most prompts first. Raises UserError."""
    taken = {i for text in clean for i in part.ids(text)}
    counts = Counter(
        i for text in triggered for i in dict.fromkeys(part.ids(text)) if i not in taken
    )
    found = [i for i, _ in counts.most_common(many)]
    if len(found) < many:
        raise UserError(
            f"{many} token embeddings are to change and {len(counts)} tokens of the trigger are in"
            " no clean caption: choose a rarer trigger, or other vectors"
        )
    return found


def read_embedding(file: str, dims: Sequence[int]) -> Tensor:
    """The vectors (n, dim) of a learned embedding: one tensor (dim,) or (n, dim), under the name of
    its token. Raises UserError."""
    try:
        state = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read the embedding {file}: {str(error).splitlines()[0]}") from None
    shapes = {k: tuple(v.shape) for k, v in state.items()}
    if len(state) != 1 or next(iter(state.values())).ndim not in (1, 2):
        raise UserError(
            f"{file} holds {shapes}, and a learned embedding is one tensor of one vector or a few"
        )
    found = next(iter(state.values()))
    found = found.float().reshape(-1, found.shape[-1])
    if [found.shape[1]] != list(dims):
        raise UserError(
            f"the vectors of {file} have {found.shape[1]} numbers, and this base's token embeddings"
            f" {' and '.join(map(str, dims))}: it is of another base"
        )
    return found
