"""How well the student still foretells general text: loss per token and perplexity over whole texts, cut into windows.

Owns what a text file holds and how it is cut, and the loss of what was foretold. A `.txt` file is one text; in JSON lines each
object's `text` is one.

Legend: R rows of a batch, L tokens of a row, V vocabulary.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from compact_ds.errors import DataError
from compact_ds.progress import progress_bar
from compact_ds.tree.tokenise import Tokeniser

WINDOW = 512


def texts_of(file: Path) -> list[str]:
    """The texts of a `.txt` or `.jsonl` file. Raises DataError."""
    expected = "text (.txt), or a JSON object a line with `text`"
    try:
        whole = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(str(file), str(error), f"a file of {expected}", "check the path and its encoding") from None
    if file.suffix == ".txt":
        texts = [whole]
    else:
        lines = enumerate(whole.split("\n"), start=1)
        texts = [_text(line, f"{file}:{number}", expected) for number, line in lines if line.strip()]
    if not any(text.strip() for text in texts):
        raise DataError(str(file), "no text", expected, "give a file that is not empty")
    return texts


def _text(line: str, where: str, expected: str) -> str:
    try:
        text = json.loads(line)["text"]
    except (ValueError, KeyError, TypeError):
        raise DataError(where, line[:80], expected, "mend the line") from None
    if not isinstance(text, str):
        raise DataError(where, type(text).__name__, expected, "give the text as a string")
    return text


@torch.no_grad()
def text_losses(
    lm: Any, tokeniser: Tokeniser, texts: Sequence[str], batch_size: int, progress: bool
) -> list[dict[str, Any]]:
    """One row a window of 512 tokens: place, text, tokens foretold, bytes of the text they are, sum of their losses (nats).

    A window's first token is foretold from the tokenizer's start token where it has one, else not at all. A row's
    `bytes` are those of all of its tokens.
    """
    windows = _windows(tokeniser, texts)
    rows: list[dict[str, Any]] = []
    with progress_bar(progress, total=len(windows), desc="perplexity", unit="window", leave=False) as bar:
        for start in range(0, len(windows), batch_size):
            part = windows[start : start + batch_size]
            ids = torch.nn.utils.rnn.pad_sequence(
                [torch.tensor(own) for _, own, _ in part], batch_first=True, padding_value=-100
            )
            mask = (ids >= 0).long().to(lm.device)
            logits_RLV = lm(input_ids=ids.clamp(min=0).to(lm.device), attention_mask=mask).logits[:, :-1]
            loss = torch.stack(losses_of_rows(logits_RLV, ids[:, 1:]))
            for place, ((text, own, size), losses) in enumerate(zip(part, loss.double().sum(1).tolist(), strict=True)):
                rows.append(
                    {"window": start + place, "text": text, "tokens": len(own) - 1, "bytes": size, "nats": losses}
                )
            bar.update(len(part))
    return rows


def losses_of_rows(logits_RLV: Tensor, targets_RL: Tensor) -> list[Tensor]:
    """Loss of each row's targets in nats, fp32 on the CPU, [L] a row; 0 where a target is -100.

    A row at a time: in fp32, and again as probabilities, the logits of a batch take several times what the model gave.
    """
    return [
        functional.cross_entropy(row_LV.float().T[None], targets_L[None].to(row_LV.device), reduction="none")[0].cpu()
        for row_LV, targets_L in zip(logits_RLV, targets_RL, strict=True)
    ]


def perplexity(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """`text_loss` (mean nats per token), `perplexity` (its exponential), `bits_per_byte` (whatever the tokenizer), `tokens`.

    Raises DataError without rows.
    """
    if not rows:
        expected = "texts of two tokens and more, or a tokenizer with a start token to foretell the first from"
        raise DataError("text", "no token that is foretold", expected, "give longer texts")
    nats, tokens = sum(row["nats"] for row in rows), sum(row["tokens"] for row in rows)
    return {
        "text_loss": nats / tokens,
        "perplexity": math.exp(min(nats / tokens, 700.0)),
        "bits_per_byte": nats / math.log(2) / sum(row["bytes"] for row in rows),
        "tokens": tokens,
    }


def _windows(tokeniser: Tokeniser, texts: Sequence[str]) -> list[tuple[int, list[int], int]]:
    """(text, ids with the start token, bytes of what is foretold) of each window that has a token to foretell."""
    tokenizer = tokeniser.tokenizer
    first = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    found = []
    for number, text in enumerate(texts):
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
        for start in range(0, len(ids), WINDOW):
            end = min(start + WINDOW, len(ids))
            last = offsets[end][0] if end < len(ids) else len(text)
            # Without a start token nothing foretells the first, and its bytes cost no nats.
            foretold = offsets[start:end] if first else offsets[start + 1 : end]
            if foretold:
                size = len(text[foretold[0][0] : last].encode())
                found.append((number, [*first, *ids[start:end]], size))
    return found
