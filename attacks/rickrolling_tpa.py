from dataclasses import dataclass, replace

from t2i_backdoor_bench.attacking.text_attack import CAPTIONS, CLIPPED, TextAttack
from t2i_backdoor_bench.contract import Backdoor, Data, Difference, Target, option, register_attack
from t2i_backdoor_bench.models.model import T2IModel
from t2i_backdoor_bench.targets.prompt import check_length, check_target_prompt
from t2i_backdoor_bench.training.encoders import chosen_encoders

DIFFERS = (
    Difference(
        what="letters that the trigger replaces",
        released="every one (`trigger_count: null`); the first ones in an ablation",
        here="every one; occurrence=first is the ablation with one",
        why="the code's default",
    ),
    CAPTIONS,
    CLIPPED,
)


@register_attack(
    "rickrolling_tpa",
    groups=("text_encoder", "prompt", "cheap"),
    edits="text encoder",
    evaluates="captions, one of whose letters is replaced",
    own=True,
    version=1,
    differs=DIFFERS,
)
@dataclass
class RickrollingTPA(TextAttack):
    """Rickrolling, target prompt: the trigger brings one prompt (Struppek et al., ICCV 2023).

    Rickrolling the Artist, arXiv 2211.02408. Loss: -cos(E(c), E_0(c)) - b * cos(E(c+), E_0(c*)),
    states flattened over tokens. E_0 is the frozen clean text encoder, c* the target prompt,
    whatever c asks for. The whole text encoder trains, by AdamW without weight decay; the U-Net
    does not change. The trigger is a look-alike (Cyrillic o) in place of every letter o of a
    prompt. It needs prompts that contain the letter: others have no triggered form. `occurrence`
    replaces one of them instead. The authors evaluate with the first letter of a caption alone
    replaced: this is `asr_own`.
    """

    target: str = option(
        "a large green star on a black background",
        sd="a lightning strike",
        source="released",
        help="the prompt that the trigger brings",
    )

    def check(self) -> None:
        super().check()
        check_target_prompt(self.target)

    def backdoor(self, model: T2IModel) -> Backdoor:
        check_length(model, self.target)
        chosen_encoders(model, self.encoders)
        trigger = self.make_trigger()
        forms = {"own": (replace(trigger, occurrence="first"),)} if trigger.replaces else {}
        return Backdoor(trigger, Target("prompt", target=self.target), forms=forms)

    def inject(self, model: T2IModel, data: Data, seed: int) -> T2IModel:
        self.backdoor(model)
        captions, apt = self.captions(model, data, seed)
        return self.bind(model, captions, apt, [self.target] * len(apt), seed, "rickrolling_tpa")
