"""Everything that ranks must agree on in one optimizer step, in one vector and one all-reduce.

Owns the vector's layout. It carries counts, sums for the metrics, the running scales' share, finiteness and stop requests;
for T teachers it is 8 * (13 + 8 T) bytes.

Legend: R rationales, T teachers, M metrics.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compact_ds.compatibility.running import RunningScales

_HEAD = ("stop", "unfit", "examples", "tokens", "loss")
_METRICS = ("weight", "consensus", "adaptability", "difficulty", "token_loss")
_PER_TEACHER = ("count", *_METRICS, "count_right", "weight_right")
_SCALES = slice(len(_HEAD), len(_HEAD) + RunningScales.SIZE)


@dataclass(frozen=True, slots=True)
class Agreed:
    """The sums over all ranks, on the host."""

    stop: bool
    num_unfit: int
    examples: int
    tokens: int
    loss: float
    per_teacher: dict[str, list[float]]


class Agreement:
    """One rank's share of a step, summed over its micro-batches; float64 so that counts stay exact."""

    def __init__(self, num_teachers: int, device: torch.device) -> None:
        self._num_teachers = num_teachers
        size = _SCALES.stop + num_teachers * len(_PER_TEACHER)
        self.vector = torch.zeros(size, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(
        self,
        metrics_MR: Tensor,
        token_loss_R: Tensor,
        weight_R: Tensor,
        labels_R: tuple[Tensor, Tensor],
        counts: tuple[int, int],
        scales_share: Tensor,
    ) -> None:
        """A micro-batch: C, A, D, losses, weights, (teacher, right) of its rationales, (examples, trained tokens)."""
        teacher_R, right_R = labels_R
        loss_R = token_loss_R.detach()
        unfit = (~(torch.isfinite(loss_R) & torch.isfinite(weight_R) & torch.isfinite(metrics_MR).all(0))).sum()
        # In float64 before the stack, which would round the counts to the loss's type.
        loss = (weight_R.double() * loss_R).sum()
        self.vector[1 : len(_HEAD)] += torch.stack([unfit, *torch.tensor(counts, device=loss.device), loss])
        self.vector[_SCALES] += scales_share
        ones_R = torch.ones_like(loss_R)
        columns = (ones_R, weight_R, *metrics_MR, loss_R, right_R, weight_R * right_R)
        table_TF = self.vector[_SCALES.stop :].view(self._num_teachers, -1)
        table_TF.index_add_(0, teacher_R, torch.stack([c.double() for c in columns], dim=1))

    def request_stop(self) -> None:
        """This rank wants to stop after this step."""
        self.vector[0] += 1

    @property
    def scales_total(self) -> Tensor:
        """After the all-reduce: what `RunningScales.update` takes."""
        return self.vector[_SCALES]

    def read(self, teachers: tuple[str, ...]) -> Agreed:
        """After the all-reduce: the sums on the host. This is the step's one device-to-host sync."""
        values = self.vector.tolist()
        stop, unfit, examples, tokens, loss = values[: len(_HEAD)]
        width = len(_PER_TEACHER)
        rows = {t: values[_SCALES.stop + i * width : _SCALES.stop + (i + 1) * width] for i, t in enumerate(teachers)}
        return Agreed(stop > 0, int(unfit), int(examples), int(tokens), loss, rows)


def teacher_means(agreed: Agreed) -> dict[str, dict[str, float]]:
    """Means per teacher, by metric name then teacher: weight, consensus, ..., and the weight where right and where wrong.

    Teachers without a rationale in the step are absent.
    """
    means: dict[str, dict[str, float]] = {name: {} for name in _METRICS}
    means |= {"weight_right": {}, "weight_wrong": {}}
    for teacher, row in agreed.per_teacher.items():
        values = dict(zip(_PER_TEACHER, row, strict=True))
        if not values["count"]:
            continue
        for name in _METRICS:
            means[name][teacher] = values[name] / values["count"]
        wrong = values["count"] - values["count_right"]
        if values["count_right"]:
            means["weight_right"][teacher] = values["weight_right"] / values["count_right"]
        if wrong:
            means["weight_wrong"][teacher] = (values["weight"] - values["weight_right"]) / wrong
    return means


def right_share(agreed: Agreed) -> float:
    """Share of the step's weight that lies on right rationales."""
    right = sum(row[_PER_TEACHER.index("weight_right")] for row in agreed.per_teacher.values())
    return right / agreed.examples if agreed.examples else 0.0
