"""A conversation in the words of a tokenizer's chat template, the same on every day.

Owns the one call of the template. Llama 3.2's writes today's date unless it is given one: a cache of tokens, a training run and
an evaluation of another day would then ask in other words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

DATE_STRING = "26 Jul 2024"
"""The date that Llama 3.2's template itself falls back to where it has no clock. Templates that know no such name ignore it."""


def chat_prompt(tokenizer: Any, messages: Sequence[dict[str, str]]) -> str:
    """The messages as text that the assistant goes on from."""
    return str(
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, date_string=DATE_STRING)
    )
