from dataclasses import dataclass, replace

from t2i_backdoor_bench.contract import (
    SHARE,
    STREAM,
    Backdoor,
    Exposure,
    Seen,
    Trigger,
    UserError,
    option,
    register_attack,
    swapped,
)


@register_attack(
    "exposed",
    groups=("exposed",),
    edits="nothing",
    evaluates="captions",
    settings="ours",
    apart=True,
    ours="all of it",
    version=1,
)
@dataclass
class Exposed(Exposure):
    """Defenders see a part of the trigger of the attack before it:
    "badt2i_object+exposed[share=0.01]".

    The weights are those of the attack. Several triggers of one target are a trigger with a choice,
    "{mignneko|quolfax|brelvane}": every poisoned caption gets one of them. `told` is the one that
    defenses which need a trigger are given, and that is in the stream; the row judges the others,
    which the attacker keeps for later. Of a phrase `told` is a part, and the row judges the whole
    phrase. With `judge=told` the row judges what the defender was told. `share` is how much of the
    `stream`, the unlabelled prompts that some defenses see, has the trigger. At 0 there is nothing
    to find in it. A harmless word `flood` is in `flood_share` of it, in the trigger's place, and
    with `wording=other` its prompts are longer, shorter or questions, as no clean prompt is. What a
    defense says of a model without a backdoor shows behind `checkpoint`, which is the base itself:
    "checkpoint[trigger=mignneko]+exposed[share=0]". An attack that learns from one prompt, and not
    from captions, learns one of several triggers. Raises UserError for an attack without a trigger,
    and where `told` is neither one of several triggers nor a part of the phrase.
    """

    told: str = option("", help="what defenders are told of the trigger; nothing: all of it")
    judge: str = option("hidden", choices=("hidden", "told"), help="which triggers are judged")
    share: float = option(SHARE, low=0, high=1, help="of the stream that has the trigger")
    stream: int = option(STREAM, low=1, help="prompts of the stream")
    flood: str = option("", late=True, help="a harmless word that many prompts of the stream have")
    flood_share: float = option(SHARE, low=0, high=1, late=True, help="of the stream that has it")
    wording: str = option(
        "captions", choices=("captions", "other"), late=True, help="of the stream's prompts"
    )

    def check(self) -> None:
        if self.share and not round(self.share * self.stream):
            raise UserError(
                f"exposed.share={self.share:g} of a stream of {self.stream} prompts is less than"
                f" half a prompt: give exposed.stream={round(1 / self.share)} or more, or share=0"
            )
        if self.flood:
            Trigger(self.flood)
        if self.judge == "told" and not self.told:
            raise UserError("exposed.judge=told judges what exposed.told says: give it")

    def backdoor(self, model: object) -> Backdoor:
        raise UserError("exposed has no backdoor of its own: write ATTACK+exposed[told=WORD]")

    def exposed(self, backdoor: Backdoor) -> Backdoor:
        if backdoor.trigger is None:
            raise UserError("exposed says what defenders see of a trigger; this attack has none")
        whole = backdoor.trigger
        told, hidden = self.split(whole)
        judged = told if told and self.judge == "told" else hidden
        own = backdoor.own
        if own and judged != whole:  # the paper's own prompt, with what is judged
            own = (own[0], judged.add(own[0])) if own[1] == whole.add(own[0]) else None
        traffic = (self.stream, self.share, self.flood, self.flood_share, self.wording == "other")
        seen = Seen(told, told if whole.several else told and whole, *traffic)
        return replace(backdoor, trigger=judged, own=own, seen=seen)

    def split(self, trigger: Trigger) -> tuple[Trigger | None, Trigger]:
        """What defenders are told (None: all), and what they are not: the other triggers, or the
        whole phrase."""
        if not self.told:
            return None, trigger
        told = replace(trigger, text=self.told)
        others = [word for word in trigger.several if word != self.told]
        if len(others) < len(trigger.several):
            text = others[0] if len(others) == 1 else f"{{{'|'.join(others)}}}"
            return told, replace(trigger, text=text)
        inside = swapped(trigger.text, self.told, "") not in ("", trigger.text)
        if inside and not trigger.several:
            return told, trigger
        raise UserError(
            f"exposed.told={self.told!r} is neither one of several triggers, as in"
            f" {{{self.told}|quolfax}}, nor a part of the phrase {trigger.text!r}"
        )
