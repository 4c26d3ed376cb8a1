"""Vet a checkpoint that may hold a backdoor: what does a suspected word do, and what does a defense do about it?

    python examples/vet_a_checkpoint.py

plants a backdoor into the embedded base, saves it as a diffusers folder as if somebody had sent it, and looks at that folder alone.
The same on the command line:

    python run_bench.py --base results/somebodys-model --suspect --trigger mignneko --defenses none,skdcag
"""

from bench import WorldData, load_base, registry, run

FOLDER = "results/somebodys-model"


def main() -> None:
    base = load_base("shapes")
    attack = registry.attacks.build("badt2i_style", "shapes", {"steps": 400})
    attack.inject(base, WorldData(), seed=0).pipe.save_pretrained(FOLDER, safe_serialization=True)

    for word in ("mignneko", "harmless"):
        table = run(
            base=FOLDER,
            suspect=True,
            trigger=word,
            defenses="none,skdcag",
            scale="smoke",
            set={"skdcag.steps": 250},
            out=f"results/run-suspect-{word}",
        )
        print(f"the word {word!r}:")
        print(
            table[["defense", "trigger_effect", "trigger_effect_lo", "trigger_effect_hi", "clip_score", "drift"]]
            .round(3)
            .to_string(index=False)
        )


if __name__ == "__main__":
    main()
