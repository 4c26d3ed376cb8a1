from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from t2i_backdoor_bench.contract import DefenderView, Defense, Difference, option, register_defense
from t2i_backdoor_bench.contract.hashing import digest, file_digest
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.models.translation import check_translator, load_translator

DIFFERS = (
    Difference(
        what="the way back",
        released="none: the model reads the Spanish prompt",
        here="translated back into English; `back=false` is as released",
        why="a base whose text encoder reads English alone would draw something else, with or"
        " without a backdoor",
    ),
)


@register_defense("tpd_back_translation", apart=True, version=1, differs=DIFFERS)
@dataclass
class BackTranslation(Defense):
    """Textual Perturbations Defense: every prompt is translated (Chew et al., ECCV-W 2024).

    arXiv 2408.15721. The model reads the prompt in another language and back, so that what is no
    word of a language is lost or changed. It needs translation models in local folders, which do
    not come with the suite, and is therefore not in "all". The released code has
    Helsinki-NLP/opus-mt-en-ROMANCE and opus-mt-ROMANCE-en; a single M2M100 model serves both ways.
    The other ways to change a prompt are `tpd_synonyms`, `tpd_characters` and `tpd_homoglyphs`.
    """

    forward: str = option("", help="folder of the model that translates from English")
    backward: str = option("", help="folder of the model that translates back")
    language: str = option("es", source="released", help="code of the language in between")
    back: bool = option(True, help="translate back into English")
    weights: tuple[str, ...] = field(default=(), init=False)  # identify the models in keys of cells

    def __post_init__(self) -> None:
        found = [sorted(Path(folder).glob("*")) for folder in self.folders.values() if folder]
        self.weights = tuple(
            digest({f.name: file_digest(f) for f in files if f.is_file()}) for files in found
        )

    @property
    def folders(self) -> dict[str, str]:
        """The folders that are read, by option."""
        return {"forward": self.forward} | ({"backward": self.backward} if self.back else {})

    def check_machine(self, device: str) -> None:
        for name, folder in self.folders.items():
            check_translator(folder, f"tpd_back_translation.{name}")

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        self.check_machine(str(model.device))
        before = model.rewrite or (lambda prompt: prompt)
        loaded = cache(lambda folder: load_translator(folder, model.device))

        @cache
        def rewrite(prompt: str) -> str:
            text = loaded(self.forward)(before(prompt), "en", self.language)
            return loaded(self.backward)(text, self.language, "en") if self.back else text

        return replace(model, rewrite=rewrite)
