"""Methods beside one another over several seeds and the same held-out questions, from what `compact-ds eval --output` wrote.

    python tests/measure_seeds.py QUESTIONS METHOD-SEED.jsonl [METHOD-SEED.jsonl ...]

QUESTIONS is a file of two-number word problems. Files of one student, as METHOD-SEED.first.jsonl and METHOD-SEED.second.jsonl,
count as one of all their samples. Of each method's students two shares over questions: answers that are right, and texts whose
last calculation is the right one (`measure_operation.py`). The 95 % intervals of differences are Student's t over seeds paired
(seeds differ, questions are these) and a bootstrap over questions of means over seeds (the other way round). With uniform,
compact and verified, also how far compact is above 80 % of the way from uniform to verified.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from measure_operation import shares
from measure_study import half_width

from compact_ds.evaluation.paired import read_rows, share
from compact_ds.evaluation.statistics import interval

Figures = dict[str, dict[int, dict[str, float]]]
"""By method, seed and question, the share of texts that are right."""
METHODS = ("uniform", "compact", "verified")
MARK = 0.8


def right_answers(rows: Path) -> dict[str, float]:
    return {row["id"]: share(row) for row in read_rows(rows)}


def table(figures: Figures) -> list[str]:
    lines = []
    for method, seeds in figures.items():
        means = [statistics.fmean(seeds[seed].values()) for seed in sorted(seeds)]
        each = ", ".join(f"{mean:.3f}" for mean in means)
        lines.append(f"  {method}: {statistics.fmean(means):.3f} ({each})")
    return lines


def difference(parts: list[tuple[float, str]], figures: Figures) -> str:
    """The weighted sum of methods' shares with its two intervals, on the seeds that all of them have."""
    common = sorted(set.intersection(*(set(figures[method]) for _, method in parts)))
    questions = sorted(figures[parts[0][1]][common[0]])
    summed_SQ = np.sum([factor * _values(figures[method], common, questions) for factor, method in parts], axis=0)
    of_seeds, of_questions = summed_SQ.mean(1), summed_SQ.mean(0)
    low, high = interval(of_questions.tolist())
    over = f"{low:.3f} to {high:.3f} over questions"
    if len(common) > 1:
        half = half_width(len(common), float(of_seeds.std(ddof=1)), len(common) - 1)
        over = f"± {half:.3f} over {len(common)} seeds, {over}"
    return f"{of_seeds.mean():.3f} ({over})"


def _values(seeds: dict[int, dict[str, float]], common: list[int], questions: list[str]) -> npt.NDArray[np.float64]:
    return np.array([[seeds[seed][question] for question in questions] for seed in common])


def pooled(files: list[Path], figure: Callable[[Path], dict[str, float]]) -> dict[str, float]:
    """The figure of each question over all texts of the files, which have different numbers of samples."""
    sizes = [len(read_rows(file)[0].get("samples", [file])) for file in files]
    shares_of_files = [figure(file) for file in files]
    return {
        question: sum(n * one[question] for n, one in zip(sizes, shares_of_files, strict=True)) / sum(sizes)
        for question in shares_of_files[0]
    }


def _run(file: Path) -> tuple[str, int]:
    method, _, seed = file.name.split(".")[0].rpartition("-")
    return method, int(seed)


def _place(file: Path) -> int:
    method, _ = _run(file)
    return METHODS.index(method) if method in METHODS else len(METHODS)


def main(questions: Path, files: list[Path]) -> None:
    kinds: dict[str, Figures] = {"right answers": defaultdict(dict), "right calculations": defaultdict(dict)}
    # In this order, so that a method is compared with those before it.
    for (method, seed), own in itertools.groupby(sorted(files, key=lambda file: (_place(file), _run(file))), _run):
        of_student = list(own)
        kinds["right answers"][method][seed] = pooled(of_student, right_answers)
        kinds["right calculations"][method][seed] = pooled(of_student, partial(shares, questions))
    for kind, figures in kinds.items():
        print(f"{kind}, mean of seeds (each)", *table(figures), sep="\n")
        for first, second in itertools.combinations(figures, 2):
            print(f"  {second} less {first}: {difference([(1, second), (-1, first)], figures)}")
        if set(METHODS) <= set(figures):
            above = difference([(1, "compact"), (MARK - 1, "uniform"), (-MARK, "verified")], figures)
            print(f"  compact above {MARK:.0%} of the way from uniform to verified: {above}")


if __name__ == "__main__":
    first, *others = (Path(word) for word in sys.argv[1:])
    main(first, others)
