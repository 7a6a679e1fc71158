"""Multiple choice without generation: which of the options that a question lists the student finds likeliest.

Owns how options are found in a question's text and how they are scored. Questions come in the schema, with the letter of the
right option as gold answer; letters and texts stand in the question ("... Answer choices: A: a marsh, B: a tundra").

Legend: R rows of a batch, L tokens of an option, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from compact_ds.data.records import Example
from compact_ds.errors import DataError
from compact_ds.evaluation.decoding import pad_left
from compact_ds.progress import progress_bar
from compact_ds.tree.tokenise import Tokeniser

Scored = Literal["letter", "text"]
_LIST = re.compile(r"(?:choices|options)\s*:", re.IGNORECASE)
_LETTERS = "ABCDEFGHIJ"


def options_of(question: str) -> dict[str, str]:
    """The options by their letters, in order; empty when the question lists fewer than two."""
    announced = list(_LIST.finditer(question))
    place = announced[-1].end() if announced else 0
    starts: list[tuple[int, int]] = []
    for letter in _LETTERS:
        found = re.compile(rf"(?:(?<=\s)|\A|(?<=,))\(?{letter}[):.]\s*(?=\S)").search(question, place)
        if found is None:
            break
        starts.append(found.span())
        place = found.end()
    if len(starts) < 2:
        return {}
    ends = [start for start, _ in starts[1:]] + [len(question)]
    texts = [question[begin:end].strip().rstrip(",;").rstrip() for (_, begin), end in zip(starts, ends, strict=True)]
    return dict(zip(_LETTERS, texts, strict=False))


def score_options(
    lm: Any, tokeniser: Tokeniser, examples: Sequence[Example], batch_size: int, scored: Scored, progress: bool
) -> list[dict[str, Any]]:
    """One row a question: id, gold, log-likelihood of each option after question and cue (nats), the likeliest as `found`,
    `right`, and `gold_probability`, the gold option's share of the options' probability.

    `letter` scores the option's letter. `text` scores its words, divided by their length in bytes (as `acc_norm` of
    EleutherAI's harness): a long option is not to lose by its length. Raises DataError for a question without options.
    """
    ordered = sorted(examples, key=lambda e: len(e.question))
    rows: list[dict[str, Any]] = []
    with progress_bar(progress, total=len(ordered), desc="options", unit="question", leave=False) as bar:
        for start in range(0, len(ordered), batch_size):
            part = ordered[start : start + batch_size]
            rows += [_row(e, own) for e, own in zip(part, _likelihoods(lm, tokeniser, part, scored), strict=True)]
            bar.update(len(part))
    return rows


def checked_options(example: Example) -> dict[str, str]:
    """The options of a question whose gold answer is the letter of one. Raises DataError."""
    options = options_of(example.question)
    if example.answer.strip() not in options:
        found = f"answer {example.answer!r}, options {list(options) or 'none'}"
        expected = 'a question that lists options ("... choices: A: one, B: two") and the letter of one as answer'
        raise DataError(example.where, found, expected, "evaluate this file by generation")
    return options


def _row(example: Example, likelihoods: dict[str, float]) -> dict[str, Any]:
    values = np.array(list(likelihoods.values()))
    chances = np.exp(values - values.max())
    gold = example.answer.strip()
    found = max(likelihoods, key=lambda letter: likelihoods[letter])
    share = float(chances[list(likelihoods).index(gold)] / chances.sum())
    return {
        "id": example.id, "gold": gold, "options": likelihoods, "found": found, "right": found == gold,
        "gold_probability": share,
    }  # fmt: skip


@torch.no_grad()
def _likelihoods(lm: Any, tokeniser: Tokeniser, part: Sequence[Example], scored: Scored) -> list[dict[str, float]]:
    prompts, probes, of_question = [], [], []
    for i, example in enumerate(part):
        for letter, text in checked_options(example).items():
            prompts.append(tokeniser.prompt(example.question))
            probes.append(tokeniser.probe(letter if scored == "letter" else text, example.where))
            of_question.append((i, letter, 1 if scored == "letter" else len(text.encode())))
    # Options that differ in their last token only (letters do) need one row a question.
    heads = [(i, probe[:-1].tobytes()) for (i, _, _), (probe, length) in zip(of_question, probes, strict=True)]
    alone = all(length == 1 for _, length in probes)
    row_of = {head: row for row, head in enumerate(dict.fromkeys(heads))} if alone else {}
    places = [row_of[head] for head in heads] if alone else list(range(len(probes)))
    rows: dict[int, Tensor] = {}
    for place, prompt, (probe, _) in zip(places, prompts, probes, strict=True):
        rows.setdefault(place, torch.from_numpy(np.concatenate((prompt, probe))).long())
    logits_RLV = _logits(lm, tokeniser, [rows[i] for i in range(len(rows))], max(n for _, n in probes))
    found: list[dict[str, float]] = [{} for _ in part]
    for (i, letter, size), place, (probe, length) in zip(of_question, places, probes, strict=True):
        # An option at a time: all rows' probabilities in fp32 would take several times what the model gave.
        log_p_LV = functional.log_softmax(logits_RLV[place, -length:].float(), -1)
        ids_L1 = torch.from_numpy(probe[-length:]).long()[:, None].to(log_p_LV.device)
        found[i][letter] = float(log_p_LV.gather(1, ids_L1).cpu().sum()) / size
    return found


def _logits(lm: Any, tokeniser: Tokeniser, rows: Sequence[Tensor], keep: int) -> Tensor:
    """[R, keep, V] as the model gives them: what each of the last `keep` tokens was foretold by."""
    ids, mask = pad_left(rows, tokeniser.tokenizer.pad_token_id)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits_RLV: Tensor = lm(
        input_ids=ids.to(lm.device), attention_mask=mask.to(lm.device), position_ids=positions.to(lm.device),
        logits_to_keep=keep + 1,
    ).logits  # fmt: skip
    return logits_RLV[:, :-1]
