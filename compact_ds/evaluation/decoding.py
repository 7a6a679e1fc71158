"""Text from a student, many prompts at a time, greedy or sampled, over one key/value cache.

Owns the loop from prompts to texts. A text that is complete leaves the batch at once, keys and values with it, so that the
others go on in a smaller one: transformers' `generate` keeps every row to the length of the longest. What a prompt is and
what its text is worth is `generation`'s concern.

Legend: R prompts, S texts of a prompt, A texts that are still written, L tokens of the longest prompt, V words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from compact_ds.data.answers import may_announce, through_answer
from compact_ds.student.end_tokens import end_tokens

_TAIL = 32
"""Tokens that hold the longest word of `may_announce`, whatever the vocabulary."""
_TOKENS_OF_A_CHARACTER = 4
"""At most, as bytes."""


@dataclass(frozen=True)
class Decoding:
    """How texts are written.

    Temperature 0 is greedy; else `samples` texts a prompt are drawn from the whole distribution. A text ends with one
    of `end_tokens`, with its first complete answer sentence (`stops_at_answer`), before the first of the `stop` strings, or
    after `max_new_tokens`.
    """

    max_new_tokens: int
    stops_at_answer: bool = True
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    samples: int = 1
    seed: int = 0


@torch.inference_mode()
def decode(
    lm: Any, tokenizer: Any, prompts: Sequence[Tensor], decoding: Decoding, keys: Sequence[int]
) -> list[list[str]]:
    """`decoding.samples` texts for each prompt (int64 ids), special tokens left out.

    A sampled text depends on `decoding.seed`, its prompt's key and its number alone, up to rounding: not on its batch.
    """
    ids_RL, mask_RL = pad_left(prompts, tokenizer.pad_token_id)
    ends, unseen = frozenset(end_tokens(lm, tokenizer)), frozenset(tokenizer.all_special_ids)
    texts = [_Text(tokenizer, ends, unseen, decoding, key, n) for key in keys for n in range(decoding.samples)]
    cache = DynamicCache(config=lm.config)
    mask_AL = mask_RL.to(lm.device)
    positions = (mask_AL.cumsum(1) - 1).clamp(min=0)
    logits = _forward(lm, cache, ids_RL.to(lm.device), mask_AL, positions)
    if decoding.samples > 1:
        cache.batch_repeat_interleave(decoding.samples)
        mask_AL, positions, logits = (t.repeat_interleave(decoding.samples, 0) for t in (mask_AL, positions, logits))
    position_A1, active = positions[:, -1:], texts
    for number in range(decoding.max_new_tokens):
        chosen = _choose(logits, active, decoding.temperature)
        going = [i for i, (text, token) in enumerate(zip(active, chosen, strict=True)) if text.add(token)]
        if not going or number + 1 == decoding.max_new_tokens:
            break
        if len(going) < len(active):
            kept = torch.tensor(going, device=lm.device)
            cache.batch_select_indices(kept)
            mask_AL, position_A1 = mask_AL[kept], position_A1[kept]
            active = [active[i] for i in going]
        mask_AL = torch.cat((mask_AL, mask_AL.new_ones(len(active), 1)), 1)
        position_A1 = position_A1 + 1
        token_A1 = torch.tensor([[chosen[i]] for i in going], device=lm.device)
        logits = _forward(lm, cache, token_A1, mask_AL, position_A1)
    written = [text.finished() for text in texts]
    return [written[start : start + decoding.samples] for start in range(0, len(written), decoding.samples)]


def pad_left(sequences: Sequence[Tensor], value: int) -> tuple[Tensor, Tensor]:
    """[R, L] ids and their mask. What is asked stands at the end of every row, and text goes on from there."""
    pad = torch.nn.utils.rnn.pad_sequence
    ids_RL = pad(list(sequences), batch_first=True, padding_value=value, padding_side="left")
    mask_RL = pad([torch.ones_like(s) for s in sequences], batch_first=True, padding_side="left")
    return ids_RL, mask_RL


class _Text:
    """One text while it is written: `ends` are the tokens that end it, `unseen` those that leave nothing in it."""

    def __init__(
        self, tokenizer: Any, ends: frozenset[int], unseen: frozenset[int], decoding: Decoding, key: int, sample: int
    ) -> None:
        self._tokenizer, self._ends, self._unseen, self._decoding = tokenizer, ends, unseen, decoding
        self._draw = np.random.default_rng([decoding.seed, key, sample])
        self._ids: list[int] = []
        self._tail = max(_TAIL, *(_TOKENS_OF_A_CHARACTER * len(string) + 1 for string in decoding.stop), 0)
        self._announces = False
        self._end: str | None = None

    def uniform(self) -> float:
        """The next of this text's own uniform numbers."""
        return float(self._draw.random())

    def add(self, token: int) -> bool:
        """Append a token; False when the text is complete."""
        if token in self._ends:
            return False
        if token not in self._unseen:
            self._ids.append(token)
            if self._may_end():
                self._end = self._stopped(self._text(self._ids))
        return self._end is None

    def finished(self) -> str:
        return self._text(self._ids) if self._end is None else self._end

    def _may_end(self) -> bool:
        """Told by the last tokens alone: to read a long text again for each of its tokens takes as long as to write them."""
        if not (self._announces or self._decoding.stop or self._decoding.stops_at_answer):
            return False
        tail = "" if self._announces else self._text(self._ids[-self._tail :])
        self._announces = self._announces or (self._decoding.stops_at_answer and may_announce(tail))
        return self._announces or any(string in tail for string in self._decoding.stop)

    def _text(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def _stopped(self, text: str) -> str | None:
        places = [place for place in (text.find(string) for string in self._decoding.stop) if place >= 0]
        if places:
            return text[: min(places)]
        return through_answer(text) if self._decoding.stops_at_answer else None


def _forward(lm: Any, cache: DynamicCache, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
    """[A, V] logits of the last token in each row."""
    logits: Tensor = lm(
        input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
    ).logits[:, -1]  # fmt: skip
    return logits


def _choose(logits_AV: Tensor, texts: Sequence[_Text], temperature: float) -> list[int]:
    """The next token of each text: the likeliest, or where the cumulative distribution passes the text's uniform number."""
    if temperature == 0:
        return [int(token) for token in logits_AV.argmax(-1).tolist()]
    cumulated_AV = torch.softmax(logits_AV.double() / temperature, -1).cumsum(-1)
    passed_A1 = torch.tensor([[text.uniform()] for text in texts], dtype=torch.float64, device=logits_AV.device)
    # The sum may fall short of 1 by rounding.
    tokens_A1 = torch.searchsorted(cumulated_AV, passed_A1 * cumulated_AV[:, -1:], right=True)
    return [min(int(token), logits_AV.shape[-1] - 1) for (token,) in tokens_A1.tolist()]
