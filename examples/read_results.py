"""Read the table of a finished run as a pandas DataFrame, and ask it something.

    python examples/read_results.py [FOLDER]

Without a folder it reads the reference run, which is in the repository: nothing is trained.
examples/read_results.txt is what it printed.
"""

import sys
from pathlib import Path

from t2i_backdoor_bench import read_table

REFERENCE = Path(__file__).resolve().parents[1] / "results" / "reference"


def main() -> None:
    table = read_table(sys.argv[1] if len(sys.argv) > 1 else REFERENCE)
    defended = table[(table.defense != "none") & (table.status == "done")]

    print("Restored triggered pictures, % (rows: defenses with what they need; columns: attacks)")
    restored = defended.pivot_table("restoration_accuracy", ["needs", "defense"], "attack")
    print((100 * restored).round(1).to_string())

    print("\nOf each defense the attack of which it restores least, with the 95 % interval")
    worst = defended.loc[defended.groupby("defense").restoration_accuracy.idxmin()]
    for row in worst.itertuples():
        low, high = 100 * row.restoration_accuracy_lo, 100 * row.restoration_accuracy_hi
        print(
            f"{row.defense}: {100 * row.restoration_accuracy:.1f} % [{low:.1f}, {high:.1f}] of"
            f" {row.attack}"
        )

    print("\nPairs that McNemar's test separates from skdcag (p < 0.05, same prompts and noise)")
    apart = defended[defended.p_restoration_vs_skdcag < 0.05]
    print(
        apart[["attack", "defense", "p_restoration_vs_skdcag"]].to_string(index=False)
        if len(apart)
        else "none"
    )


if __name__ == "__main__":
    main()
