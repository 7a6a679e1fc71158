"""Teachers that are folders: texts from a causal LM on this machine, in batches.

Owns the seeding: each text is drawn by its own generator, so that it does not depend on what else is in its batch, and a run
that was killed goes on to the same texts (up to rounding, where a batch has another width).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from compact_ds.data.chat_prompt import chat_prompt
from compact_ds.data.generate_calls import Failure
from compact_ds.data.generate_journal import Entry
from compact_ds.data.generate_settings import Call, Teacher
from compact_ds.errors import ConfigError
from compact_ds.launcher.devices import uses_gpu
from compact_ds.student.end_tokens import end_tokens


def write_all(teacher: Teacher, calls: Sequence[Call], done: Callable[[Entry | Failure], None]) -> None:
    """Make the calls of a local teacher and hand each result to `done`. Raises ConfigError for a folder that is no model."""
    tokenizer, lm = _load(teacher)
    # Alike lengths together waste no padding.
    ordered = sorted(calls, key=lambda call: len(call.prompt))
    size = teacher.settings.batch_size
    for low in range(0, len(ordered), size):
        for result in _batch(teacher, tokenizer, lm, ordered[low : low + size]):
            done(result)


class OwnDraws(LogitsProcessor):
    """Adds Gumbel noise to the scores of each row, from the row's own generator.

    The largest of log p + Gumbel noise is a draw from p (Gumbel 1954; Maddison et al. 2014, arXiv 1411.0030), so that a greedy
    search over these scores samples, and no row's draw depends on another's.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        """A seed for each row of the batch."""
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Noisy scores, as wide as `scores` (rows, vocabulary)."""
        width = scores.shape[-1]
        uniform = torch.stack([torch.rand(width, dtype=torch.float64, generator=g) for g in self._generators])
        noise = -torch.log(-torch.log(uniform.clamp(min=1e-300)))
        return scores.double() + noise.to(scores.device)


def _load(teacher: Teacher) -> tuple[Any, Any]:
    folder = str(Path(teacher.settings.model).expanduser())
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        lm = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"{teacher.where}.model", folder, "a causal LM's folder", f"check it ({reason:.160})"
        ) from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    device: Any = "cuda" if uses_gpu() else "cpu"
    return tokenizer, lm.to(device).eval()


@torch.no_grad()
def _batch(teacher: Teacher, tokenizer: Any, lm: Any, calls: Sequence[Call]) -> list[Entry | Failure]:
    settings, start = teacher.settings, time.monotonic()
    prompts = [_prompt(tokenizer, settings.system, call.prompt) for call in calls]
    # A template writes the special tokens itself.
    inputs = tokenizer(
        prompts, return_tensors="pt", padding=True, add_special_tokens=tokenizer.chat_template is None,
        return_token_type_ids=False,
    ).to(lm.device)  # fmt: skip
    out = lm.generate(
        **inputs, max_new_tokens=settings.max_tokens, do_sample=False, temperature=None, top_p=None, top_k=None,
        num_beams=1, pad_token_id=tokenizer.pad_token_id, logits_processor=_sampling(teacher, calls),
    )  # fmt: skip
    written = out[:, inputs["input_ids"].shape[1] :].tolist()
    seconds = (time.monotonic() - start) / len(calls)
    ends = end_tokens(lm, tokenizer)
    results: list[Entry | Failure] = []
    for call, tokens, asked in zip(calls, written, inputs["attention_mask"].sum(1).tolist(), strict=True):
        length = next((place + 1 for place, token in enumerate(tokens) if token in ends), len(tokens))
        text = tokenizer.decode(tokens[:length], skip_special_tokens=True)
        if not text.strip():
            results.append(Failure(call.key, "an empty text", 1))
            continue
        cut_off = not tokens or tokens[length - 1] not in ends
        results.append(Entry(call.key, text, asked, length, seconds, cut_off))
    return results


def _sampling(teacher: Teacher, calls: Sequence[Call]) -> LogitsProcessorList:
    settings = teacher.settings
    if settings.temperature == 0:
        return LogitsProcessorList()
    steps: list[Any] = [TemperatureLogitsWarper(settings.temperature or 1.0)]
    if settings.top_p is not None and settings.top_p < 1:
        steps.append(TopPLogitsWarper(settings.top_p))
    return LogitsProcessorList([*steps, OwnDraws([call.seed or 0 for call in calls])])


def _prompt(tokenizer: Any, system: str | None, prompt: str) -> str:
    if tokenizer.chat_template is None:
        return f"{system}\n\n{prompt}\n" if system else f"{prompt}\n"
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})
    return chat_prompt(tokenizer, messages)
