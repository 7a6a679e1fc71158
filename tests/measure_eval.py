"""How much faster a batch of greedy texts is than `generate` on one question after another, and whether the texts are the same.

Prints one JSON object. Both write the same questions in one process, part by part in turn, so that what else the machine does
falls on both. Usage: python tests/measure_eval.py DATA MODEL [QUESTIONS [BATCH [MAX_NEW_TOKENS]]]
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch

from compact_ds.data.answers import through_answer
from compact_ds.data.readers import read
from compact_ds.data.records import Example
from compact_ds.evaluation.decoding import Decoding
from compact_ds.evaluation.generation import generate
from compact_ds.sections import DataConfig, StudentConfig
from compact_ds.student.load import load_tokenizer, load_weights
from compact_ds.tree.tokenise import Tokeniser


def main(data: str, model: str, questions: int = 40, batch: int = 20, max_new_tokens: int = 64) -> dict[str, Any]:
    """Seconds of each way and how many texts are equal, token for token (compared as texts with all their tokens)."""
    tokeniser = Tokeniser(load_tokenizer(StudentConfig(model=model)), DataConfig(train=data).cue)
    lm = load_weights(model, "MODEL", dtype=torch.float32).eval()
    examples = sorted(read(data, DataConfig(train=data), 0, limit=questions), key=lambda e: len(e.question))
    seconds = {"one_by_one": 0.0, "batch": 0.0, "batch_to_the_answer": 0.0}
    equal = equal_to_the_answer = 0
    for start in range(0, len(examples), batch):
        part = examples[start : start + batch]
        started = time.perf_counter()
        alone = [_one(lm, tokeniser, example, max_new_tokens) for example in part]
        seconds["one_by_one"] += time.perf_counter() - started
        started = time.perf_counter()
        whole = [own[0] for own in generate(lm, tokeniser, part, Decoding(max_new_tokens, stops_at_answer=False))]
        seconds["batch"] += time.perf_counter() - started
        started = time.perf_counter()
        stopped = [own[0] for own in generate(lm, tokeniser, part, Decoding(max_new_tokens))]
        seconds["batch_to_the_answer"] += time.perf_counter() - started
        equal += sum(a == b for a, b in zip(alone, whole, strict=True))
        expected = [through_answer(text) or text for text in alone]
        equal_to_the_answer += sum(a == b for a, b in zip(expected, stopped, strict=True))
    faster = {f"{name}_times_faster": seconds["one_by_one"] / own for name, own in seconds.items()}
    counts = {"questions": len(examples), "equal": equal, "equal_to_the_answer": equal_to_the_answer}
    return {**counts, **seconds, **faster}


def _one(lm: Any, tokeniser: Tokeniser, example: Example, max_new_tokens: int) -> str:
    tokenizer = tokeniser.tokenizer
    ids = torch.from_numpy(tokeniser.prompt(example.question)).long()[None]
    out = lm.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_new_tokens, do_sample=False,
        temperature=None, top_p=None, top_k=None, repetition_penalty=1.0,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], *(int(word) for word in sys.argv[3:])), indent=2))
