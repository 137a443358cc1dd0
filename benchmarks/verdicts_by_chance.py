"""How often the verdict on forget rows fails a model that is right and passes one that is not: drawn losses, no model.

    python benchmarks/verdicts_by_chance.py

Of a right model forget rows and never-seen rows are drawn from one law, and no answer is given; 300 draws each (seed
0: an entry of 2 % is 1 to 4 %). *Left*: so many of the rows stand at a share of the way from the original (0.01 nats)
to the middle of the law; 100 draws each. Prints the tables of docs/results/verdicts.md.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from expunge.evaluation.verdict import judge
from expunge.scoring.evidence import Evidence, SetEvidence

Floats = NDArray[np.float64]
Law = Callable[[np.random.Generator, int], Floats]
DRAWS, OF_LEFT, KNOWN = 300, 100, 0.01
SIZES = ((1, 40), (7, 40), (19, 40), (30, 40), (7, 200), (100, 200))
LEFT = ((1, 1), (7, 1), (30, 1), (30, 5))
SHARES = (0.05, 0.3, 0.45)


def lucky(random: np.random.Generator, n: int) -> Floats:
    easy = random.random(n) < 0.03
    return np.where(easy, random.lognormal(-2, 0.5, n), random.lognormal(0.7, 0.3, n))


LAWS: dict[str, Law] = {
    "log-normal, sd 0.3": lambda random, n: random.lognormal(0.7, 0.3, n),
    "log-normal, sd 0.5": lambda random, n: random.lognormal(0.7, 0.5, n),
    "log-normal, sd 0.8": lambda random, n: random.lognormal(0.7, 0.8, n),
    "normal, 2 and 0.4": lambda random, n: random.normal(2, 0.4, n).clip(0.05),
    "gamma of shape 2": lambda random, n: random.gamma(2, 1, n),
    "log-normal, sd 0.3; 3 % near 0.1": lucky,
}


def answers(losses: Floats) -> SetEvidence:
    """Rows of one kind and shape, of which no answer is given."""
    n = len(losses)
    return SetEvidence(
        kinds=("answer",) * n,
        tasks=("",) * n,
        loss=losses,
        targets=np.ones(n),
        token_loss=losses,
        references=("secret",) * n,
        generations=("else",) * n,
        shapes=np.zeros((n, 2)),
    )


def word(forget: Floats, judging: Floats) -> str:
    seen = answers(judging)
    before = Evidence({"forget": answers(np.full(len(forget), KNOWN)), "judging": seen})
    return judge(before, Evidence({"forget": answers(forget), "judging": seen})).forget


def right(law: Law, rows: int, others: int) -> str:
    random = np.random.default_rng(0)
    found = [word(law(random, rows), law(random, others)) for _ in range(DRAWS)]
    words = ("not forgotten", "partly", "over-forgotten")
    return ", ".join(f"{found.count(one) / DRAWS:.1%}" for one in words)


def wrong(law: Law, rows: int, left: int, share: float) -> str:
    random = np.random.default_rng(0)
    at = np.full(left, KNOWN + share * (float(np.median(law(random, 10000))) - KNOWN))
    found = [word(np.concatenate([at, law(random, rows - left)]), law(random, 40)) for _ in range(OF_LEFT)]
    return f"{1 - found.count('forgotten') / OF_LEFT:.0%}"


def main() -> None:
    print("| losses; forget and judging rows |", " | ".join(f"{n} and {m}" for n, m in SIZES), "|")
    print("| --- |", " | ".join("---" for _ in SIZES), "|")
    for name, law in LAWS.items():
        print(f"| {name} |", " | ".join(right(law, *size) for size in SIZES), "|", flush=True)
    print("\n| losses; rows, of which left; at |", " | ".join(f"{share:.0%}" for share in SHARES), "|")
    print("| --- |", " | ".join("---" for _ in SHARES), "|")
    for name in list(LAWS)[:3]:
        for rows, left in LEFT:
            found = [wrong(LAWS[name], rows, left, share) for share in SHARES]
            print(f"| {name}; {rows}, {left} |", " | ".join(found), "|", flush=True)


if __name__ == "__main__":
    main()
