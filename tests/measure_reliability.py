"""Two estimates of how often each teacher is right, from agreement alone, and how consensus ranks with each.

`python tests/measure_reliability.py DATA`. The fit to rates of agreement is the product's (`compatibility.consensus`).
Beside it expectation maximisation after Dawid and Skene (Applied Statistics 28, 1979) with one parameter a teacher: the
true answer is one of those seen, a teacher gives it with probability p, else any other value seen, each as likely; an
answer that its own steps do not reach counts as wrong. The verdicts of DATA are read for the report only.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from measure_ranking import auc, wins

from compact_ds.compatibility.consensus import _answer_nodes, consensus, reliability
from compact_ds.data.readers import read
from compact_ds.sections import DataConfig

ROUNDS = 500
Answers = Sequence[tuple[str, str | None]]


def maximised(questions: Sequence[Answers]) -> dict[str, float]:
    """Each teacher's p by expectation maximisation, from 0.6 for all."""
    found = {teacher: 0.6 for answers in questions for teacher, _ in answers}
    for _ in range(ROUNDS):
        right, asked = dict.fromkeys(found, 0.0), dict.fromkeys(found, 0)
        for answers in questions:
            share = posterior(answers, found)
            for teacher, answer in answers:
                asked[teacher] += 1
                right[teacher] += share.get(answer, 0.0)
        last, found = found, {t: min(0.99, max(0.01, right[t] / asked[t])) for t in found}
        if max(abs(found[t] - last[t]) for t in found) < 1e-6:
            break
    return found


def posterior(answers: Answers, found: dict[str, float]) -> dict[str | None, float]:
    """The probability of each value seen of being the true answer; none where nobody answered."""
    values = sorted({answer for _, answer in answers if answer is not None})
    others = max(1, len(values) - 1)
    likely = np.ones(len(values))
    for teacher, answer in answers:
        for i, value in enumerate(values):
            if answer is not None:
                likely[i] *= found[teacher] if answer == value else (1 - found[teacher]) / others
    return dict(zip(values, likely / likely.sum(), strict=True))


def main(data: str) -> None:
    """Print the estimates beside the true shares, and the AUC of consensus with each."""
    examples = list(read(data, DataConfig(train=data), 0))
    verdicts = defaultdict(list)
    for example in examples:
        for rationale in example.rationales:
            verdicts[rationale.teacher].append(bool(rationale.is_correct))
    answers = [[(r.teacher, a) for r, a in zip(e.rationales, _answer_nodes(e), strict=True)] for e in examples]
    true = {teacher: float(np.mean(found)) for teacher, found in sorted(verdicts.items())}
    ways = {
        "true shares": true,
        "fit to agreement": reliability(examples),
        "expectation maximisation": maximised(answers),
    }
    right = [[bool(r.is_correct) for r in e.rationales] for e in examples]
    half = len(examples) // 2
    print(f"| way | {' | '.join(true)} | mean error | first half | second half |\n|{'---|' * (len(true) + 4)}")
    scores = {}
    for name, found in ways.items():
        scores[name] = [wins(consensus(e, found), own) for e, own in zip(examples, right, strict=True)]
        error = np.mean([abs(found[t] - true[t]) for t in true])
        parts = " | ".join("{:.3f} ± {:.3f}".format(*auc(part)) for part in (scores[name][:half], scores[name][half:]))
        print(f"| {name} | {' | '.join(f'{found[t]:.3f}' for t in true)} | {error:.3f} | {parts} |")
    fit, em = (np.array(scores[name]) for name in ("fit to agreement", "expectation maximisation"))
    draw = np.random.default_rng(0)
    pairs = fit[:, 1] > 0
    gap = (fit - em)[pairs][:, 0]
    drawn = [draw.integers(len(gap), size=len(gap)) for _ in range(1000)]
    gaps = [gap[d].sum() / fit[pairs][d, 1].sum() for d in drawn]
    print(f"fit minus maximisation, all questions: {gap.sum() / fit[pairs][:, 1].sum():.4f} ± {np.std(gaps):.4f}")


if __name__ == "__main__":
    main(sys.argv[1])
