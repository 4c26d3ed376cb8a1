"""Compositions that have a name or belong to a group: blind removal is a detector, a locator, and a
removal with the located trigger. They belong to "blind": none is given anything from before the
attack, so `navi_skdcag` detects with the suspect's own text encoder. `blind_mend` alone sees no
prompts that may have the trigger; `blind_repair` can do without them."""

from t2i_backdoor_bench.contract import defenses

defenses.compose(
    "t2ishield", "t2ishield_ftt+t2ishield_locate+uce_phrase", groups=("removal", "blind")
)
defenses.compose(
    "t2ishield_skdcag", "t2ishield_ftt+t2ishield_locate+skdcag", groups=("removal", "blind")
)
defenses.compose("navi_skdcag", "navit2i_untrusted+navi_locate+skdcag", groups=("removal", "blind"))
defenses.compose("blind_skdcag", "frequency_locate+skdcag", groups=("removal", "blind"))
defenses.compose("blind_skdcag_text", "frequency_locate+skdcag_text", groups=("removal", "blind"))
defenses.compose("blind_uce", "frequency_locate+uce", groups=("removal", "blind"))
defenses.compose("stream_mend", "rare_locate+trace_mend", groups=("removal", "blind"))
defenses.compose("blind_repair", "search_locate+trace_mend", groups=("removal", "blind"))
defenses.compose("blind_mend", "invert_trigger+trace_mend", groups=("removal", "blind"))
