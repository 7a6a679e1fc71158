"""How much of the weight that an oracle could put on right rationales a finished run put there.

    python tests/measure_oracle_weight.py RUN

A measurement, not a test. The oracle reads the verdicts: it puts all of a question's weight on right rationales where there is
one. A run's questions are drawn again from its config, its own weight is `right_share` of `metrics.jsonl`; the steps of the
warm-up do not count.
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import fmean

import torch

from compact_ds.config import load
from compact_ds.engine.ranks import Ranks
from compact_ds.optimizer_step.training_set import TrainingSet
from compact_ds.run.log import read
from compact_ds.student.load import load_tokenizer
from compact_ds.tree.tokenise import Tokeniser


def main(run: Path) -> None:
    config = load(str(run / "config.yaml"), [])
    data = TrainingSet(config, Tokeniser(load_tokenizer(config.student), config.data.cue))
    alone = Ranks(0, 1, torch.device("cpu"))
    found: dict[str, list[float]] = {"run": [], "oracle": [], "uniform": []}
    for row in read(run / "metrics.jsonl")[config.compatibility.warmup :]:
        records = [record for batch in data.step(row["step"], alone).records for record in batch]
        right = [[r.answer_right if r.verdict < 0 else r.verdict for r in record.rationales] for record in records]
        found["run"].append(row["right_share"])
        found["oracle"].append(fmean(max(one) for one in right))
        found["uniform"].append(fmean(fmean(one) for one in right))
    for name, steps in (("steps after the warm-up", 0), ("last quarter", len(found["run"]) * 3 // 4)):
        means = {who: fmean(values[steps:]) for who, values in found.items()}
        print(name, {who: round(mean, 3) for who, mean in means.items()}, f"{means['run'] / means['oracle']:.1%}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
