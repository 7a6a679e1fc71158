"""What measuring losses and options holds in memory: no fp32 copy of a batch's logits, whose vocabulary is wide."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from largest_storage import Largest
from tiny_student import TOKENISER
from torch import Tensor
from torch.nn import functional

from compact_ds.data.records import Example, Rationale
from compact_ds.evaluation.generation import answer_losses, rationale_losses
from compact_ds.evaluation.options import score_options
from compact_ds.evaluation.perplexity import losses_of_rows, text_losses

ROWS, VOCABULARY = 8, 4096
QUESTION = "ann has 3 apples . choices: A: three and four B: four and four"


class Given:
    """A bf16 model of a wide vocabulary that knows nothing."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.given = 0

    def __call__(self, input_ids: Tensor, logits_to_keep: int = 0, **_: Any) -> Any:
        logits = torch.zeros(*input_ids[:, -logits_to_keep:].shape, VOCABULARY, dtype=torch.bfloat16)
        self.given = max(self.given, logits.nbytes)
        return SimpleNamespace(logits=logits)


def _examples() -> list[Example]:
    rationale = Rationale("ada", ("3 + 4 = 7 .",), " the answer is 7")
    return [Example(str(i), QUESTION, "B", (rationale,), f"file:{i}") for i in range(ROWS)]


MEASURES: dict[str, Callable[[Any], object]] = {
    "answers": lambda lm: answer_losses(lm, TOKENISER, [(example, None) for example in _examples()]),
    "rationales": lambda lm: rationale_losses(lm, TOKENISER, _examples(), ROWS, False),
    "options": lambda lm: score_options(lm, TOKENISER, _examples(), ROWS, "text", False),
    "texts": lambda lm: text_losses(lm, TOKENISER, [QUESTION] * ROWS, ROWS, False),
}


@pytest.mark.parametrize("measured", MEASURES)
def test_nothing_is_larger_than_the_logits_that_the_model_gave(measured: str) -> None:
    lm = Given()
    with Largest() as largest:
        MEASURES[measured](lm)
    assert 0 < largest.bytes <= lm.given


def test_a_row_alone_has_the_losses_that_it_has_in_its_batch() -> None:
    torch.manual_seed(0)
    logits_RLV = 5 * torch.randn(3, 7, 500, dtype=torch.bfloat16)
    targets_RL = torch.randint(500, (3, 7))
    targets_RL[1, 4:] = -100
    whole_RL = functional.cross_entropy(logits_RLV.float().transpose(1, 2), targets_RL, reduction="none")
    assert torch.equal(torch.stack(losses_of_rows(logits_RLV, targets_RL)), whole_RL)
    assert whole_RL[1, 4:].tolist() == [0.0] * 3
