"""One process of a test: twenty steps of one teacher beside the same steps by transformers and torch alone.

Run with RANK and its companions set: `python plain_fine_tuning.py OUT key=value ...`. Saves the largest and the mean
difference of gradients over all steps, of losses, and of parameters at the end.
"""

import copy
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from compact_ds.config import load
from compact_ds.data.readers import read
from compact_ds.data.records import Example
from compact_ds.engine.ranks import ranks
from compact_ds.engine.shards import full_state
from compact_ds.engine.start import Engine, learning_rate
from compact_ds.optimizer_step.step import Step
from compact_ds.optimizer_step.training_set import TrainingSet
from compact_ds.student.load import load_lm, load_tokenizer
from compact_ds.student.measure import Student
from compact_ds.tree.tokenise import Tokeniser

STEPS = 20


def plain_step(
    lm: Any, optimizer: torch.optim.Optimizer, tokenizer: Any, examples: Sequence[Example], clip: float
) -> tuple[float, dict[str, Tensor]]:
    """One step as anyone would write it: each example's own loss by transformers, their mean, clipping, AdamW."""
    losses = []
    for example in examples:
        prompt = tokenizer(example.question + "\n")["input_ids"]
        text = next(r.text for r in example.rationales if r.teacher == "ada")
        answer = tokenizer(text)["input_ids"] + [tokenizer.eos_token_id]
        ids = torch.tensor([prompt + answer])
        labels = torch.tensor([[-100] * len(prompt) + answer])
        loss = lm(input_ids=ids, labels=labels).loss
        (loss / len(examples)).backward()
        losses.append(float(loss.detach()))
    gradients = {name: p.grad.clone() for name, p in lm.named_parameters()}
    torch.nn.utils.clip_grad_norm_(lm.parameters(), clip)
    optimizer.step()
    optimizer.zero_grad()
    return sum(losses) / len(losses), gradients


def main(out: str, overrides: list[str]) -> None:
    from deepspeed.utils import safe_get_full_grad

    config = load("arithmetic", overrides)
    tokenizer = load_tokenizer(config.student)
    data = TrainingSet(config, Tokeniser(tokenizer, config.data.cue))
    examples = {e.id: e for e in read(config.data.train, config.data, 0, limit=config.data.limit)}
    with ranks(60) as group:
        lm = load_lm(config, len(tokenizer))
        plain = AutoModelForCausalLM.from_config(copy.deepcopy(lm.config))
        plain.load_state_dict(lm.state_dict())
        settings = config.optimizer
        optimizer = torch.optim.AdamW(
            plain.parameters(), lr=settings.lr, betas=settings.betas, eps=settings.eps, weight_decay=0.0
        )
        engine = Engine(Student(lm, config.tree.layout), config, group)
        step = Step(config, data, engine, group)
        gradients, update = {}, engine.step

        def keep(lr: float) -> float:
            named = engine.student.named_parameters()
            gradients.update({n.removeprefix("lm."): safe_get_full_grad(p).clone() for n, p in named})
            return update(lr)

        engine.step = keep  # type: ignore[method-assign]
        found = {"gradient_max": 0.0, "gradient_mean": 0.0, "loss": 0.0}
        for number in range(STEPS):
            drawn = [examples[r.id] for batch in data.step(number, group).records for r in batch]
            loss = step.run(number, learning_rate(settings, number, STEPS), asked_to_stop=False).metrics.loss
            want_loss, want = plain_step(plain, optimizer, tokenizer, drawn, settings.grad_clip)
            differences = [(gradients[name] - gradient).abs() for name, gradient in want.items()]
            found["gradient_max"] = max(found["gradient_max"], *(float(d.max()) for d in differences))
            found["gradient_mean"] = max(found["gradient_mean"], *(float(d.mean()) for d in differences))
            found["loss"] = max(found["loss"], abs(loss - want_loss))
        trained = full_state(engine.student, keep=True)
        differences = [(trained[name] - p.detach()).abs() for name, p in plain.named_parameters()]
        found["parameter_max"] = max(float(d.max()) for d in differences)
        found["parameter_mean"] = max(float(d.mean()) for d in differences)
        found["last_loss"] = loss
        torch.save(found, out)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
