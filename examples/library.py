"""The benchmark as a library: one attack, two defenses, and the table as a pandas DataFrame.

    python examples/library.py

trains and judges on the embedded base for some minutes on two CPU cores.
"""

from t2i_backdoor_bench import run

SETTINGS = {
    "attacks": "badt2i_pixel",
    "defenses": "none,skdcag,noise_weights",
    "scale": "smoke",
    "n": 20,  # prompts a condition
    "set": {"badt2i_pixel.steps": 400, "badt2i_pixel.images": 36, "skdcag.steps": 250},
    "out": "results/run-library",
}


def main() -> None:
    table = run(**SETTINGS)
    columns = ["defense", "needs", "asr", "asr_lo", "asr_hi", "restoration_accuracy", "clip_score"]
    print(table[columns].round(3).to_string(index=False))

    best = (
        table[table.defense != "none"].sort_values("restoration_accuracy", ascending=False).iloc[0]
    )
    print(
        f"\n{best.defense} restores {best.restoration_accuracy:.0%} of the triggered pictures. The"
        f" report: {table.attrs['report']}"
    )


if __name__ == "__main__":
    main()
