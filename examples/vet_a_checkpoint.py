"""Vet a checkpoint that may hold a backdoor: what does a suspected word do, and what does a defense
do about it?

    python examples/vet_a_checkpoint.py

plants a backdoor into the embedded base, saves it as a diffusers folder as if somebody had sent it,
and looks at that folder alone. The same on the command line:

    python run_bench.py --base results/somebodys-model --suspect --trigger mignneko \\
        --defenses none,skdcag
"""

from t2i_backdoor_bench import WorldData, load_base, run
from t2i_backdoor_bench.contract import registry

BASE, FOLDER, ATTACK = "shapes", "results/somebodys-model", {"steps": 400}
SETTINGS = {
    "base": FOLDER,
    "suspect": True,
    "defenses": "none,skdcag",
    "scale": "smoke",
    "n": 20,  # prompts a condition
    "set": {"skdcag.steps": 250},
}


def main() -> None:
    attack = registry.attacks.build("badt2i_style", "shapes", ATTACK)
    attack.inject(load_base(BASE), WorldData(), seed=0).pipe.save_pretrained(
        FOLDER, safe_serialization=True
    )

    for word in ("mignneko", "harmless"):
        table = run(**SETTINGS, trigger=word, out=f"{FOLDER}-{word}")
        print(f"the word {word!r}:")
        columns = ["defense", "trigger_effect", "clip_score", "drift"]
        print(table[columns].round(3).to_string(index=False))


if __name__ == "__main__":
    main()
