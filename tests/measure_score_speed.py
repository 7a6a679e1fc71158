"""What the token tree saves `score`: seconds against one row a rationale and a probe, and how far the scores differ.

A measurement, not a test: `python tests/measure_score_speed.py DATA STUDENT [QUESTIONS] [key=value ...]`. Both layouts run
in one process with the same weights and the same budget of tokens in a micro-batch, and take turns chunk by chunk, so
that a busy machine is unfair to neither. The rows are those of `tree.layout=rows`: a budget's worth of tokens a forward
pass, or one question, padded and not sorted by length; `tokens` tells what that padding costs them.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from compact_ds import config as configuration
from compact_ds.optimizer_step.training_set import TrainingSet
from compact_ds.sections import Config
from compact_ds.student.load import load_lm, load_tokenizer
from compact_ds.student.measure import Measurement, Student, measure
from compact_ds.tree.batch import Batch
from compact_ds.tree.tokenise import Record, Tokeniser

CHUNK = 4
LAYOUTS: tuple[Literal["tree"], Literal["rows"]] = ("tree", "rows")


class Layout:
    """One layout's student, its micro-batches and what they cost."""

    def __init__(self, name: Literal["tree", "rows"], lm: Any, settings: Config, tokeniser: Tokeniser) -> None:
        tree = settings.tree.model_copy(update={"layout": name})
        self.config = settings.model_copy(update={"tree": tree})
        self.data = TrainingSet(self.config, tokeniser)
        self.student = Student(lm, name).eval()
        self.seconds: list[float] = []
        self.tokens, self.padded = 0, 0
        self.scores: dict[tuple[str, int], npt.NDArray[np.float64]] = {}

    @torch.no_grad()
    def run(self, places: list[int]) -> None:
        """Score some questions; batches are made inside the measured time, as `score` makes them."""
        started = time.perf_counter()
        for batch, records, _ in self.data.batches_of(places):
            lse_N, z_N1 = self.student(batch)
            measured = measure(lse_N, z_N1, batch, "torch")
            self._note(batch, records, measured)
        self.seconds.append(time.perf_counter() - started)

    def _note(self, batch: Batch, records: list[Record], measured: Measurement) -> None:
        self.padded += batch.ids_BL.numel()
        # Padding is its own and only descendant, ordered after a whole row.
        self.tokens += int((batch.order_BL < batch.ids_BL.shape[1]).sum())
        assert measured.probed is not None
        pmi_P = measured.probed.gold_P - measured.probed.gold0_R[batch.rationale_P]
        for i, (e, r) in enumerate(batch.places_R):
            mine = pmi_P[batch.rationale_P == i]
            self.scores[records[e].id, r] = np.array([float(measured.token_loss_R[i]), *mine.tolist()])


def main(data: str, student: str, questions: int, overrides: list[str]) -> None:
    """Print the comparison as JSON."""
    raw: dict[str, Any] = {}
    given = [f"data.train={json.dumps(data)}", f"student.model={json.dumps(student)}", "run_dir=unused", "max_steps=1"]
    for override in [*given, *overrides]:
        configuration.override_key(raw, override)
    settings = configuration.resolve(raw, "command line")
    tokeniser = Tokeniser(load_tokenizer(settings.student), settings.data.cue)
    lm = load_lm(settings, len(tokeniser.tokenizer))
    layouts = [Layout(name, copy.deepcopy(lm), settings, tokeniser) for name in LAYOUTS]
    places = layouts[0].data.usable[: questions + CHUNK]
    assert places == layouts[1].data.usable[: questions + CHUNK]
    for start in range(0, len(places), CHUNK):
        for layout in layouts if start % (2 * CHUNK) else layouts[::-1]:
            layout.run(places[start : start + CHUNK])
        done = [f"{layout.seconds[-1]:.1f}" for layout in layouts]
        sys.stderr.write(f"{start + CHUNK} questions, the first {CHUNK} to warm up: {' and '.join(done)} s\n")
    print(json.dumps(report(*layouts), indent=2))


def report(tree: Layout, rows: Layout) -> dict[str, Any]:
    """The first chunk, which warms up, is left out of the seconds."""
    seconds = np.array([tree.seconds[1:], rows.seconds[1:]])
    ratios = seconds[1] / seconds[0]
    apart = [np.abs(tree.scores[key] - rows.scores[key]).max() for key in tree.scores]
    assert tree.scores.keys() == rows.scores.keys()
    return {
        "questions": CHUNK * len(ratios),
        "rationales": len(tree.scores),
        "probes": sum(len(values) - 1 for values in tree.scores.values()),
        "times_faster_median": float(np.median(ratios)),
        "times_faster_quartiles": np.quantile(ratios, [0.25, 0.75]).tolist(),
        "times_faster_total": float(seconds[1].sum() / seconds[0].sum()),
        "seconds": dict(zip(LAYOUTS, seconds.sum(1).tolist(), strict=True)),
        "tokens": {"tree": tree.tokens, "rows": rows.tokens},
        "tokens_with_padding": {"tree": tree.padded, "rows": rows.padded},
        "largest_difference_nats": float(max(apart)),
    }


if __name__ == "__main__":
    numbers = [int(a) for a in sys.argv[3:4] if a.isdigit()]
    main(sys.argv[1], sys.argv[2], (numbers or [60])[0], [a for a in sys.argv[3:] if "=" in a])
