"""Does the student answer held-out questions: greedy generation, exact match, and the gold answer's loss.

Owns the measurement on a plain transformers model, in training and after it alike. Statistics over runs are elsewhere.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compact_ds.data.answers import final_answer, same_answer
from compact_ds.data.records import Example, Rationale
from compact_ds.data.results import arrives
from compact_ds.errors import DataError
from compact_ds.evaluation.decoding import Decoding, decode, pad_left
from compact_ds.evaluation.perplexity import losses_of_rows
from compact_ds.evaluation.samples import majority
from compact_ds.progress import progress_bar
from compact_ds.sections import EvaluationConfig
from compact_ds.tree.tokenise import Tokeniser


def _rationale_figures(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """`rationale_loss`, and that of the rationales with the right and with a wrong answer, where rows carry them."""
    held = [rationale for row in rows for rationale in row.get("rationales", [])]
    groups = {"": held, "_right": [r for r in held if r["right"]], "_wrong": [r for r in held if not r["right"]]}
    return {f"rationale_loss{end}": sum(r["loss"] for r in own) / len(own) for end, own in groups.items() if own}


def decoding_of(settings: EvaluationConfig) -> Decoding:
    """How the section `evaluation` wants texts written."""
    return Decoding(settings.max_new_tokens, settings.stops_at_answer, tuple(settings.stop))


def evaluate(
    lm: Any,
    tokeniser: Tokeniser,
    examples: Sequence[Example],
    batch_size: int,
    decoding: Decoding,
    progress: bool,
    rationales: bool = False,
) -> list[dict[str, Any]]:
    """One row a question: id, gold, generated text, the answer found in it, whether it is right, gold-answer losses.

    With `rationales` each row also has the loss of every held-out rationale.

    Of several samples `text` and `found` are the first that gives the most frequent answer; `samples` has all, `share_right`
    how many of them are right.
    """
    rows: list[dict[str, Any]] = []
    # Alike lengths together waste no padding.
    ordered = sorted(examples, key=lambda e: len(e.question))
    with progress_bar(progress, total=len(ordered), desc="evaluate", unit="question", leave=False) as bar:
        for start in range(0, len(ordered), batch_size):
            part = ordered[start : start + batch_size]
            texts = generate(lm, tokeniser, part, decoding)
            losses = answer_losses(lm, tokeniser, [(e, None) for e in part])
            after = losses_after_steps(lm, tokeniser, part)
            for example, written, loss, reasoned in zip(part, texts, losses, after, strict=True):
                answered = _answered(example, written)
                rows.append(answered | {"answer_loss": loss, "answer_loss_after_steps": reasoned})
            bar.update(len(part))
    if rationales:
        held = rationale_losses(lm, tokeniser, examples, batch_size, progress)
        rows = [row | {"rationales": held.get(row["id"], [])} for row in rows]
    return rows


def _answered(example: Example, texts: Sequence[str]) -> dict[str, Any]:
    samples: list[dict[str, Any]] = [{"text": text, "found": final_answer(text)} for text in texts]
    for sample in samples:
        sample |= {"right": same_answer(sample["found"], example.answer)}
    chosen = samples[majority([sample["found"] for sample in samples])]
    row: dict[str, Any] = {"id": example.id, "gold": example.answer, **chosen}
    if len(samples) > 1:
        row |= {"share_right": sum(bool(s["right"]) for s in samples) / len(samples), "samples": samples}
    return row


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Accuracy, mean gold-answer losses (nats per answer token) and n. Raises DataError when there are no rows.

    `answer_loss` is taken right after question and cue, `answer_loss_after_steps` after the steps of a held-out
    rationale that arrive at the right answer; that one is None when no question has one.
    """
    if not rows:
        raise DataError(
            "data.eval", "no questions", "at least one held-out question", "check the file and evaluation.limit"
        )
    reasoned = [row["answer_loss_after_steps"] for row in rows if row["answer_loss_after_steps"] is not None]
    return _rationale_figures(rows) | {
        "accuracy": sum(row["right"] for row in rows) / len(rows),
        "answer_loss": sum(row["answer_loss"] for row in rows) / len(rows),
        "answer_loss_after_steps": sum(reasoned) / len(reasoned) if reasoned else None,
        "n": len(rows),
    }


def generate(lm: Any, tokeniser: Tokeniser, examples: Sequence[Example], decoding: Decoding) -> list[list[str]]:
    """The student's texts for each question, `decoding.samples` of them, written as one batch.

    What a model's folder says about generation (penalties, beams) does not count, since the trained student would not have it,
    but for the tokens that end a text, which it keeps.
    """
    prompts = [torch.from_numpy(tokeniser.prompt(example.question)).long() for example in examples]
    keys = [zlib.crc32(example.id.encode()) for example in examples]
    return decode(lm, tokeniser.tokenizer, prompts, decoding, keys)


def losses_after_steps(lm: Any, tokeniser: Tokeniser, examples: Sequence[Example]) -> list[float | None]:
    """-g[S] of each example after one rationale whose steps arrive at the right answer; None where there is none.

    Steps that end in a question or at another result say nothing of the student: nobody could read the answer off them.
    Which one is drawn by the example's id, so that every teacher has its share and every evaluation asks the same.
    """
    chosen = [_right_rationale(example) for example in examples]
    asked = [(e, rationale) for e, rationale in zip(examples, chosen, strict=True) if rationale is not None]
    losses = iter(answer_losses(lm, tokeniser, asked) if asked else [])
    return [None if rationale is None else next(losses) for rationale in chosen]


def _right_rationale(example: Example) -> Rationale | None:
    stated = [r for r in example.rationales if r.steps and same_answer(final_answer(r.text), example.answer)]
    right = [r for r in stated if arrives(r.steps, example.answer)]
    return right[zlib.crc32(example.id.encode()) % len(right)] if right else None


@torch.no_grad()
def answer_losses(lm: Any, tokeniser: Tokeniser, asked: Sequence[tuple[Example, Rationale | None]]) -> list[float]:
    """Mean loss of the gold answer's tokens after the question, the rationale's steps if there is one, and the cue; nats."""
    sequences, lengths = [], []
    for example, rationale in asked:
        probe, answer_tokens = tokeniser.probe(example.answer, example.where)
        parts = [tokeniser.prompt(example.question), probe]
        if rationale is not None:
            rationale_ids, step_ends = tokeniser.rationale(rationale)
            parts.insert(1, rationale_ids[: step_ends[-1]])
        sequences.append(torch.cat([torch.from_numpy(part) for part in parts]).long())
        lengths.append(answer_tokens)
    return _losses_of_ends(lm, tokeniser, sequences, lengths)


def _losses_of_ends(lm: Any, tokeniser: Tokeniser, sequences: Sequence[Tensor], lengths: Sequence[int]) -> list[float]:
    """Mean loss of the last so many tokens of each sequence, nats."""
    ids, mask = pad_left(sequences, tokeniser.tokenizer.pad_token_id)
    keep = max(lengths) + 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits_RLV = lm(
        input_ids=ids.to(lm.device), attention_mask=mask.to(lm.device), position_ids=positions.to(lm.device), logits_to_keep=keep
    ).logits  # fmt: skip
    losses = losses_of_rows(logits_RLV[:, :-1], ids[:, 1 - keep :])
    return [float(row[-length:].mean()) for row, length in zip(losses, lengths, strict=True)]


@torch.no_grad()
def rationale_losses(
    lm: Any, tokeniser: Tokeniser, examples: Sequence[Example], batch_size: int, progress: bool
) -> dict[str, list[dict[str, Any]]]:
    """By question, of each rationale: teacher, whether its answer is right, and loss (nats per token after the question)."""
    asked = sorted(((e, r) for e in examples for r in e.rationales), key=lambda pair: len(pair[1].text))
    found: dict[str, list[dict[str, Any]]] = {}
    for start in progress_bar(progress, range(0, len(asked), batch_size), desc="rationales", leave=False):
        part = asked[start : start + batch_size]
        own = [torch.from_numpy(tokeniser.rationale(rationale)[0]).long() for _, rationale in part]
        prompts = [torch.from_numpy(tokeniser.prompt(example.question)).long() for example, _ in part]
        whole = [torch.cat(pair) for pair in zip(prompts, own, strict=True)]
        losses = _losses_of_ends(lm, tokeniser, whole, [len(ids) for ids in own])
        for (example, rationale), loss in zip(part, losses, strict=True):
            right = same_answer(final_answer(rationale.text), example.answer)
            found.setdefault(example.id, []).append({"teacher": rationale.teacher, "right": right, "loss": loss})
    return found


def write_rows(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """One JSON object a question."""
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
