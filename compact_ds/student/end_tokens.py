"""Which tokens end a text: the model's own and the tokenizer's.

Owns the one answer for whoever writes texts with a model, and for the config that a student is saved with.
"""

from __future__ import annotations

from typing import Any


def end_tokens(lm: Any, tokenizer: Any) -> list[int]:
    """The model's in its order, then the tokenizer's. A chat model may end its turn in a token that is not the tokenizer's."""
    # A model that transformers cannot generate with has no generation config.
    own = getattr(lm.generation_config, "eos_token_id", None)
    listed = own if isinstance(own, list) else [own]
    return list(dict.fromkeys(token for token in (*listed, tokenizer.eos_token_id) if token is not None))
