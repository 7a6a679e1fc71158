"""The backward passes of one optimizer step: the weighing one, one a teacher, and one a reference batch.

Owns how micro-batches go through the engine, and the shards' memory. What is done with the gradients is `mixer`'s; the order of
a step is `step`'s.

Legend: R rationales of a micro-batch, M of all of a rank's micro-batches, V gradients of a step, N elements of this rank's shard.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from compact_ds.compatibility.weights import uniform_weights
from compact_ds.engine.ranks import Ranks
from compact_ds.engine.start import Engine
from compact_ds.mixer.gradient_mode import local_gram
from compact_ds.mixer.loss_mode import weighted_loss
from compact_ds.mixer.surgery import Floats
from compact_ds.optimizer_step.batches import Alone
from compact_ds.phases import phase
from compact_ds.sections import Config
from compact_ds.student.measure import measure
from compact_ds.tree.batch import Batch


@dataclass(frozen=True, slots=True)
class Weighed:
    """A micro-batch's losses, differentiable, and its detached weights, both [R]."""

    token_loss_R: Tensor
    weight_R: Tensor


class Passes:
    """Runs passes; keeps the memory of the shards from step to step."""

    def __init__(self, config: Config, engine: Engine, ranks: Ranks) -> None:
        self._config, self._engine, self._ranks = config, engine, ranks
        self._shards_VN = torch.zeros(0)
        self._loss_V = torch.zeros(0)
        self._loss = torch.zeros((), dtype=torch.float64, device=ranks.device)

    def weighing(
        self,
        batches: Sequence[Batch],
        teachers: Sequence[int] | None,
        weigh: Callable[[Batch], Weighed],
        before_last_backward: Callable[[], None],
    ) -> Tensor:
        """The first pass of a step: `weigh` measures and weighs every micro-batch; the losses of `teachers` go backward.

        None stands for all teachers. Returns the weights, [M]. `before_last_backward` is called when all micro-batches are
        weighed.
        """
        weights = []
        self._loss.zero_()
        for i, batch in enumerate(batches):
            moved = batch.to(self._ranks.device)
            weighed = weigh(moved)
            weights.append(weighed.weight_R)
            last = i == len(batches) - 1
            if last:
                before_last_backward()
            weight_R = weighed.weight_R
            if teachers is not None:
                chosen_R = torch.isin(batch.teacher_R, torch.tensor(teachers)).to(weight_R.device)
                weight_R = torch.where(chosen_R, weight_R, torch.zeros_like(weight_R))
            self._backward(moved, weighed.token_loss_R, weight_R, last)
        return torch.cat(weights)

    def teacher(self, alone: Sequence[Alone], weight_M: Tensor) -> None:
        """A pass over the rationales of some teachers, in trees of their own, under the weights of the step's first pass."""
        for i, one in enumerate(alone):
            batch = one.batch.to(self._ranks.device)
            weight_R = weight_M[one.index_R.to(weight_M.device)]
            self._backward(batch, self._losses(batch), weight_R, last=i == len(alone) - 1)

    def reference(self, batches: Sequence[Batch], num_examples: int) -> None:
        """The plain loss of other questions: the mean over `num_examples` of the mean over their rationales."""
        for i, batch in enumerate(batches):
            moved = batch.to(self._ranks.device)
            loss_R = self._losses(moved)
            weight_R = uniform_weights(moved.example_R, moved.teacher_R, moved.num_examples)
            weight_R = weight_R if batch.counts else torch.zeros_like(weight_R)
            self._send(weighted_loss(loss_R, weight_R), num_examples, last=i == len(batches) - 1)

    def take(self, place: int, num_gradients: int) -> None:
        """Copy the gradient of the passes since the last `forget` to row `place` of the shards, their loss beside it."""
        shards = self._engine.shards
        if self._shards_VN.shape != (num_gradients, shards.size):
            self.release()  # before the new ones are there
            self._shards_VN = torch.empty(num_gradients, shards.size, device=shards.device)
            self._loss_V = torch.zeros(num_gradients, dtype=torch.float64, device=self._ranks.device)
        shards.read(self._shards_VN[place])
        self._loss_V[place] = self._loss

    def release(self) -> None:
        """Give the shards' memory back."""
        self._shards_VN = torch.zeros(0)

    def forget(self) -> None:
        """Begin a new gradient."""
        self._engine.shards.clear()
        self._loss.zero_()

    def agree(self) -> tuple[Floats, Floats]:
        """Inner products [V, V] and losses [V] of the gradients taken, of all ranks, by one all-reduce of V * (V + 1) float64."""
        num = len(self._loss_V)
        gram_VV = local_gram(self._shards_VN).to(self._ranks.device)
        if self._engine.shards.replicated:
            gram_VV /= self._ranks.world_size
        both = torch.cat([gram_VV.flatten(), self._loss_V])
        self._ranks.start_sum(both).wait()
        # A second device-to-host sync, in gradient mode, with a guard and at diagnosing steps only.
        gram, loss_V = np.split(both.cpu().numpy(), [num * num])
        return gram.reshape(num, num), loss_V

    @property
    def shards(self) -> Tensor:
        """This rank's shards of the gradients taken, [V, N]."""
        return self._shards_VN

    def give(self, mixed_N: Tensor) -> None:
        """Make `mixed_N` the gradient that the optimizer sees."""
        self._engine.shards.write(mixed_N)

    def _losses(self, batch: Batch) -> Tensor:
        lse_N, z_N1, *_ = self._engine.forward(batch)
        return measure(lse_N, z_N1, batch, self._config.kernels).token_loss_R

    def _backward(self, batch: Batch, token_loss_R: Tensor, weight_R: Tensor, last: bool) -> None:
        # Every module still runs and every collective happens: weights are zero, calls are not skipped.
        own_R = weight_R if batch.counts else torch.zeros_like(weight_R)
        self._send(weighted_loss(token_loss_R, own_R), self._config.data.batch_size, last)

    def _send(self, loss: Tensor, num_examples: int, last: bool) -> None:
        self._loss += loss.detach() / num_examples
        with phase("backward"):
            self._engine.backward(loss, num_examples, last=last)
