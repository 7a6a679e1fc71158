"""The job `eval`: a student's figures on questions and texts, with intervals, and beside another student's.

Owns the order of things: load once, each rank its share, gather, sum up, compare. What is measured is in `evaluation`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from compact_ds.data.readers import read
from compact_ds.engine.allocator import returning_freed_memory
from compact_ds.engine.precision import remark_imitated_bf16
from compact_ds.engine.ranks import Ranks, ranks_or_alone
from compact_ds.errors import UserError
from compact_ds.evaluation import paired, samples
from compact_ds.evaluation.decoding import Decoding
from compact_ds.evaluation.generation import evaluate, summary, write_rows
from compact_ds.evaluation.options import Scored, score_options
from compact_ds.evaluation.perplexity import perplexity, text_losses, texts_of
from compact_ds.evaluation.retention import option_figures
from compact_ds.evaluation.statistics import interval
from compact_ds.sections import DataConfig, StudentConfig
from compact_ds.student.load import DTYPES, load_tokenizer, load_weights
from compact_ds.tree.tokenise import Tokeniser

_TIMEOUT_SECONDS = 7200


@dataclass(frozen=True)
class Asked:
    """What to measure. `options` scores the options that the questions of `data` list, instead of generating.

    `cue` stands before the gold answer where its loss is taken, None the default of `data.cue`. `precision` is `fp32` or `bf16`,
    None what the weights were saved in.
    """

    model: str
    data: str | None
    decoding: Decoding
    batch_size: int = 32
    limit: int | None = None
    options: Scored | None = None
    rationales: bool = False
    perplexity: Sequence[str] = ()
    output: Path | None = None
    against: Path | None = None
    split: str = "test"
    cue: str | None = None
    precision: str | None = None


def run(asked: Asked) -> dict[str, Any] | None:
    """The figures by name; None on other ranks than the first. Raises UserError."""
    _check(asked)
    other = paired.read_rows(asked.against) if asked.against else None
    with ranks_or_alone(_TIMEOUT_SECONDS) as group, returning_freed_memory():
        cue = DataConfig(train="").cue if asked.cue is None else asked.cue
        tokeniser = Tokeniser(load_tokenizer(StudentConfig(model=asked.model)), cue)
        dtype = "auto" if asked.precision is None else DTYPES[asked.precision]
        lm = load_weights(asked.model, "MODEL", dtype=dtype).to(group.device).eval()
        if group.is_first:
            remark_imitated_bf16(lm.dtype, group.device, "--precision fp32")
        result: dict[str, Any] = {}
        rows: list[dict[str, Any]] = []
        if asked.data is not None:
            rows = _questions(asked, lm, tokeniser, group)
            result |= _figures(asked, rows)
        for file in asked.perplexity:
            texts = texts_of(Path(file).expanduser())[group.rank :: group.world_size]
            mine = text_losses(lm, tokeniser, texts, max(1, asked.batch_size // 8), group.is_first)
            of_file = perplexity([row for part in group.gather(mine) for row in part])
            result |= of_file if len(asked.perplexity) == 1 else {file: of_file}
    if not group.is_first:
        return None
    if asked.output is not None:
        asked.output.parent.mkdir(parents=True, exist_ok=True)
        write_rows(rows, asked.output)
    if other is not None:
        result["against"] = paired.against(rows, other, str(asked.against))
    return result


def _check(asked: Asked) -> None:
    if asked.data is None and not asked.perplexity:
        raise UserError("eval", "nothing to measure", "--data, --perplexity or --lm-eval", "give at least one")
    if asked.data is None and (asked.output or asked.against):
        raise UserError("eval", "no --data", "questions, for --output and --against", "give --data FILE")
    if asked.decoding.samples > 1 and asked.decoding.temperature == 0:
        raise UserError(
            "--samples", asked.decoding.samples, "a --temperature above 0", "greedy samples would all be the same"
        )


@torch.no_grad()
def _questions(asked: Asked, lm: Any, tokeniser: Tokeniser, group: Ranks) -> list[dict[str, Any]]:
    """All ranks' rows, in the order of the file."""
    assert asked.data is not None
    data = DataConfig(train=asked.data, eval_split=asked.split)
    examples = list(read(asked.data, data, 0, limit=asked.limit, is_held_out=True))
    mine = examples[group.rank :: group.world_size]
    if asked.options is not None:
        own = score_options(lm, tokeniser, mine, asked.batch_size, asked.options, group.is_first)
    else:
        own = evaluate(lm, tokeniser, mine, asked.batch_size, asked.decoding, group.is_first, asked.rationales)
    rows = {row["id"]: row for part in group.gather(own) for row in part}
    return [rows[example.id] for example in examples]


def _figures(asked: Asked, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    found = option_figures(rows) if asked.options is not None else summary(rows)
    found["accuracy_interval"] = list(interval([float(row["right"]) for row in rows]))
    return found | (samples.figures(rows) if asked.options is None and "samples" in rows[0] else {})


if __name__ == "__main__":
    from compact_ds.cli import main as command_line

    sys.exit(command_line(["eval", *sys.argv[1:]]))
