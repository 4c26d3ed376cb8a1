"""The defenses of a run, and the controls beside them that cost nothing: what each of them shows is
drawn for the undefended model already, or black."""

from __future__ import annotations

from t2i_backdoor_bench.contract import Entry, registry
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.running.short_settings import SUSPECT

# what any defense that is given the trigger has to beat, and what a number alone would reward
FREE = ("strip_trigger", "refuse_all")
GROUP = "control"


def chosen_defenses(config: Config) -> list[str]:
    """The defenses that were asked for; with `Config.controls` also those of FREE, where something
    is defended, and the undefended model is in the run, whose pictures they share. The other
    controls draw pictures of their own, and stay with those who ask for the group GROUP."""
    names = registry.defenses.select(config.defenses)
    alone = "none" not in names or set(names) <= {"none", *FREE}
    if not config.controls or alone or config.attacks == SUSPECT:
        return names
    return list(dict.fromkeys([*names, *FREE]))


def is_control(defense: Entry) -> bool:
    """Whether a defense is a control alone, and repairs nothing."""
    return GROUP in defense.groups and "removal" not in defense.groups
