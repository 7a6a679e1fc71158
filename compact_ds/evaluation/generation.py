"""Does the student answer held-out questions: greedy generation, exact match, and the gold answer's loss.

Owns the measurement on a plain transformers model, in training and after it alike. Statistics over runs are elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from compact_ds.config import DataConfig, StudentConfig
from compact_ds.data.answers import final_answer, same_answer
from compact_ds.data.readers import read
from compact_ds.data.records import Example
from compact_ds.errors import DataError
from compact_ds.student.load import from_pretrained, load_tokenizer
from compact_ds.tree.tokenise import Tokeniser


def evaluate_folder(model: str, data: str, limit: int | None, batch_size: int, max_new_tokens: int) -> dict[str, Any]:
    """Accuracy, gold-answer loss and number of questions of a Hugging Face folder on a source of questions."""
    from transformers import AutoModelForCausalLM

    tokeniser = Tokeniser(load_tokenizer(StudentConfig(model=model)), DataConfig(train=data).cue)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    lm = from_pretrained(AutoModelForCausalLM, model, "MODEL", dtype="auto").to(device).eval()
    examples = list(read(data, DataConfig(train=data), 0, limit=limit))
    rows = evaluate(lm, tokeniser, examples, batch_size, max_new_tokens, progress=True)
    return summary(rows)


def evaluate(
    lm: Any, tokeniser: Tokeniser, examples: Sequence[Example], batch_size: int, max_new_tokens: int, progress: bool
) -> list[dict[str, Any]]:
    """One row a question: id, gold, generated text, the answer found in it, whether it is right, gold-answer loss."""
    rows: list[dict[str, Any]] = []
    # Alike lengths together waste no padding.
    ordered = sorted(examples, key=lambda e: len(e.question))
    with tqdm(total=len(ordered), desc="evaluate", unit="question", disable=not progress, leave=False) as bar:
        for start in range(0, len(ordered), batch_size):
            part = ordered[start : start + batch_size]
            texts = generate(lm, tokeniser, [e.question for e in part], max_new_tokens)
            losses = answer_losses(lm, tokeniser, part)
            for example, text, loss in zip(part, texts, losses, strict=True):
                found = final_answer(text)
                right = same_answer(found, example.answer)
                rows.append(
                    {"id": example.id, "gold": example.answer, "text": text, "found": found, "right": right, "answer_loss": loss}
                )  # fmt: skip
            bar.update(len(part))
    return rows


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Accuracy, mean gold-answer loss (nats per answer token, after question and cue) and n. Raises DataError when empty."""
    if not rows:
        raise DataError(
            "data.eval", "no questions", "at least one held-out question", "check the file and evaluation.limit"
        )
    return {
        "accuracy": sum(row["right"] for row in rows) / len(rows),
        "answer_loss": sum(row["answer_loss"] for row in rows) / len(rows),
        "n": len(rows),
    }


@torch.no_grad()
def generate(lm: Any, tokeniser: Tokeniser, questions: Sequence[str], max_new_tokens: int) -> list[str]:
    """The student's greedy text for each question, as one left-padded batch with a key/value cache.

    Penalties and beams that a model's folder brings are switched off: the trained student would not have them.
    """
    tokenizer = tokeniser.tokenizer
    prompts = [torch.from_numpy(tokeniser.prompt(q)).long() for q in questions]
    ids, mask = _pad(prompts, tokenizer.pad_token_id)
    out = lm.generate(
        input_ids=ids.to(lm.device), attention_mask=mask.to(lm.device), max_new_tokens=max_new_tokens, do_sample=False,
        temperature=None, top_p=None, top_k=None, num_beams=1, repetition_penalty=1.0, no_repeat_ngram_size=0,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return list(tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True))


@torch.no_grad()
def answer_losses(lm: Any, tokeniser: Tokeniser, examples: Sequence[Example]) -> list[float]:
    """-g[0] of each example: mean loss of the gold answer's tokens right after question and cue, in nats."""
    sequences, lengths = [], []
    for example in examples:
        probe, answer_tokens = tokeniser.probe(example.answer, example.where)
        prompt = torch.from_numpy(tokeniser.prompt(example.question))
        sequences.append(torch.cat((prompt, torch.from_numpy(probe))).long())
        lengths.append(answer_tokens)
    ids, mask = _pad(sequences, tokeniser.tokenizer.pad_token_id)
    keep = max(lengths) + 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = lm(
        input_ids=ids.to(lm.device), attention_mask=mask.to(lm.device), position_ids=positions.to(lm.device), logits_to_keep=keep
    ).logits.float()  # fmt: skip
    loss = functional.cross_entropy(
        logits[:, :-1].transpose(1, 2), ids[:, 1 - keep :].to(lm.device), reduction="none"
    ).cpu()
    return [float(row[-length:].mean()) for row, length in zip(loss, lengths, strict=True)]


def _pad(sequences: Sequence[Tensor], value: int) -> tuple[Tensor, Tensor]:
    # Answers end where the row ends, and generation goes on from there.
    side = "left"
    pad = torch.nn.utils.rnn.pad_sequence
    ids = pad(list(sequences), batch_first=True, padding_value=value, padding_side=side)
    mask = pad([torch.ones_like(s) for s in sequences], batch_first=True, padding_side=side)
    return ids, mask


def write_rows(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """One JSON object a question."""
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
