"""Which calculation a student finds likeliest: the right one, or another operation on the same two numbers.

    python tests/measure_calculation_choice.py QUESTIONS MODEL [OTHER ...]

QUESTIONS is a file of two-number word problems. A model is asked for the likelihood of `8 - 3 = 5` with its answer
sentence, and of each calculation that `data.mislead` would put in its place, right after the question and in one
wording. So neither a teacher's style nor the picking of numbers counts: what is left is what misleading teachers
teach. Prints the share of questions whose right calculation is the likeliest, its mean share of the options'
probability, both with bootstrap intervals over questions, and the differences from the first model on the same
questions.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from compact_ds.data.mislead import Calculation, right_calculations, written, wrong_calculations
from compact_ds.data.readers import read
from compact_ds.data.records import Example, Rationale
from compact_ds.evaluation.generation import rationale_losses
from compact_ds.evaluation.statistics import interval, paired_difference
from compact_ds.sections import DataConfig, StudentConfig
from compact_ds.student.load import load_tokenizer, load_weights
from compact_ds.tree.tokenise import Tokeniser

Figures = list[tuple[float, float]]
"""For each question: 1 where the right calculation is the likeliest, and its share of the probability."""


def choices(questions: Path) -> Iterator[Example]:
    """The questions that have a right calculation, with it and the wrong ones for rationales, the right one first."""
    for example in read(str(questions), DataConfig(train=str(questions)), 0):
        right = next(right_calculations(example.question, example.answer), None)
        wrong = wrong_calculations(example.question, example.answer, random.Random(0))
        if right is not None and wrong:
            options = [_rationale(number, one) for number, one in enumerate((right, *wrong))]
            yield Example(example.id, example.question, example.answer, tuple(options), example.where)


def _rationale(number: int, one: Calculation) -> Rationale:
    left, right, result = written(one.left.value), written(one.right.value), written(one.result)
    return Rationale(str(number), (f"{left} {one.sign} {right} = {result}\n",), f"The answer is {result}")


def figures(model: str, examples: list[Example]) -> Figures:
    tokeniser = Tokeniser(load_tokenizer(StudentConfig(model=model)), DataConfig(train="").cue)
    lm = load_weights(model, "MODEL", dtype=torch.float32).eval()
    losses = rationale_losses(lm, tokeniser, examples, 16, progress=True)
    found = []
    for example in examples:
        length = {r.teacher: len(tokeniser.rationale(r)[0]) for r in example.rationales}
        likelihood = {row["teacher"]: -row["loss"] * length[row["teacher"]] for row in losses[example.id]}
        highest = max(likelihood.values())
        total = sum(math.exp(value - highest) for value in likelihood.values())
        found.append((float(likelihood["0"] == highest), math.exp(likelihood["0"] - highest) / total))
    return found


def main(questions: Path, models: list[str]) -> None:
    examples = list(choices(questions))
    chance = sum(1 / len(one.rationales) for one in examples) / len(examples)
    print(f"{len(examples)} questions; by chance {chance:.3f}")
    found = [figures(model, examples) for model in models]
    for model, own in zip(models, found, strict=True):
        print(model)
        for column, name in enumerate(("likeliest", "share")):
            values, first = ([pair[column] for pair in pairs] for pairs in (own, found[0]))
            line = f"  {name}: {sum(values) / len(values):.3f}, {interval(values)}"
            print(line if own is found[0] else f"{line}; difference {paired_difference(values, first)}")


if __name__ == "__main__":
    file, *given = sys.argv[1:]
    main(Path(file), given)
