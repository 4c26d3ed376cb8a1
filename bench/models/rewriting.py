"""Rewriting of a text by a local, instruction-tuned language model of `transformers`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.translation import check_text_model
from t2i_backdoor_bench.models.trust import read_json

KINDS = ("llama", "mistral", "qwen2", "qwen3")
LONGEST = 128  # tokens of an answer
CHATML = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
LLAMA = (
    "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
# how a question is put, by a token that only models of this form have. The folder's own template is
# a program, and is not run. An empty thought makes a model that thinks aloud answer at once.
FORMS = {
    "<think>": CHATML + "<think>\n\n</think>\n\n",
    "<|im_start|>": CHATML,
    "<|start_header_id|>": LLAMA,
    "[INST]": "[INST] {} [/INST]",
}
# sizes of no tensor: positions are turned as far as a text is long
POSITIONS = ("max_position_embeddings", "rope_parameters", "rope_scaling", "rope_theta")
POSITIONS += ("sliding_window",)


@dataclass
class Rewriter:
    """A loaded model. `form` is one of FORMS."""

    model: Any
    tokenizer: Any
    form: str

    def __call__(self, text: str, instruction: str) -> str:
        """The first line that the model answers to the instruction and the text, without quotation
        marks around it; "" where it says nothing. The same for the same text."""
        asked = self.form.format(f"{instruction}\n\n{text}")
        given = self.tokenizer(asked, return_tensors="pt").to(self.model.device)
        with torch.inference_mode():
            out = self.model.generate(
                input_ids=given.input_ids,
                attention_mask=given.attention_mask,
                do_sample=False,
                max_new_tokens=LONGEST,
            )
        said = self.tokenizer.decode(out[0, given.input_ids.shape[1] :], skip_special_tokens=True)
        return said.strip().partition("\n")[0].strip(" \"'“”")


def form_of(folder: Path) -> str:
    """How the model of a checked folder is asked. Raises UserError where its tokenizer has none of
    the tokens of a known form."""
    words = folder / "tokenizer.json"
    found = read_json(words) if words.is_file() else None
    added = found.get("added_tokens") if isinstance(found, dict) else None
    rows = added if isinstance(added, list) else []
    tokens = {str(row["content"]) for row in rows if isinstance(row, dict) and "content" in row}
    for token, form in FORMS.items():
        if token in tokens:
            return form
    raise UserError(
        f"{words} has none of the tokens {', '.join(FORMS)}, by which a model is asked: give an"
        " instruction-tuned model"
    )


def check_rewriter(folder: str, option: str) -> None:
    """Raise UserError where `folder`, the value of `option`, holds no model that can be loaded."""
    what = "an instruction-tuned language model (Llama, Mistral, Qwen2 or Qwen3, with safetensors)"
    check_text_model(folder, option, what, KINDS, unsized=POSITIONS)
    form_of(Path(folder))


def load_rewriter(folder: str, device: torch.device) -> Rewriter:
    """The model of a folder that has been checked."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, use_safetensors=True
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return Rewriter(model.to(device).eval(), tokenizer, form_of(Path(folder)))
