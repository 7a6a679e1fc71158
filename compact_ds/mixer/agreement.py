"""Everything that ranks must agree on in one optimizer step, in one vector and one all-reduce.

Owns the vector's layout. It carries counts, sums for the metrics, the running scales' share, finiteness and stop requests;
for M metrics and T teachers it is 8 * (7 + 2 M + (5 + M) T) bytes.

Legend: R rationales, T teachers, M metrics, F columns of a teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compact_ds.compatibility.running import METRICS, RunningScales

_HEAD = ("stop", "unfit", "examples", "tokens", "loss")


@dataclass(frozen=True, slots=True)
class Agreed:
    """The sums over all ranks, on the host; `per_teacher` has counts and the sums of `metrics`, weight among them."""

    stop: bool
    num_unfit: int
    examples: int
    tokens: int
    loss: float
    metrics: tuple[str, ...]
    per_teacher: dict[str, dict[str, float]]


class Agreement:
    """One rank's share of a step, summed over its micro-batches; float64 so that counts stay exact."""

    def __init__(self, num_teachers: int, device: torch.device, added: Sequence[str] = ()) -> None:
        """`added` names the metrics beside the three."""
        self._num_teachers = num_teachers
        self._metrics = ("weight", *METRICS, *added, "token_loss")
        self._columns = ("count", *self._metrics, "count_right", "weight_right")
        self._scales = slice(len(_HEAD), len(_HEAD) + RunningScales(0.0, num_added=len(added)).size)
        size = self._scales.stop + num_teachers * len(self._columns)
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
        """A micro-batch: C, A, D and what was added, losses, weights, (teacher, right) of its rationales, (examples, tokens)."""
        teacher_R, right_R = labels_R
        loss_R = token_loss_R.detach()
        num_unfit = unfit(metrics_MR, loss_R, weight_R).sum()
        # In float64 before the stack, which would round the counts to the loss's type. Those are filled in on the device:
        # a copy from the host would wait for it.
        loss = (weight_R.double() * loss_R).sum()
        self.vector[1 : len(_HEAD)] += torch.stack([num_unfit, *(loss.new_full((), count) for count in counts), loss])
        self.vector[self._scales] += scales_share
        ones_R = torch.ones_like(loss_R)
        columns = (ones_R, weight_R, *metrics_MR, loss_R, right_R, weight_R * right_R)
        table_TF = self.vector[self._scales.stop :].view(self._num_teachers, -1)
        # A product and no index_add_, which on a GPU adds in any order: what is reported would differ from run to run.
        is_of_TR = teacher_R == torch.arange(self._num_teachers, device=teacher_R.device)[:, None]
        table_TF += is_of_TR.double() @ torch.stack([c.double() for c in columns], dim=1)

    def request_stop(self) -> None:
        """This rank wants to stop after this step."""
        self.vector[0] += 1

    @property
    def scales_total(self) -> Tensor:
        """After the all-reduce: what `RunningScales.update` takes."""
        return self.vector[self._scales]

    def read(self, teachers: tuple[str, ...]) -> Agreed:
        """After the all-reduce: the sums on the host. This is the step's one device-to-host sync."""
        values = self.vector.tolist()
        stop, unfit, examples, tokens, loss = values[: len(_HEAD)]
        width = len(self._columns)
        starts = range(self._scales.stop, len(values), width)
        rows = {
            teacher: dict(zip(self._columns, values[start : start + width], strict=True))
            for teacher, start in zip(teachers, starts, strict=True)
        }
        return Agreed(stop > 0, int(unfit), int(examples), int(tokens), loss, self._metrics, rows)


def unfit(metrics_MR: Tensor, token_loss_R: Tensor, weight_R: Tensor) -> Tensor:
    """Which rationales have a metric, loss or weight that is no number, [R]."""
    return ~(torch.isfinite(token_loss_R) & torch.isfinite(weight_R) & torch.isfinite(metrics_MR).all(0))


def teacher_means(agreed: Agreed) -> dict[str, dict[str, float]]:
    """Means per teacher, by metric name then teacher: weight, consensus, ..., and the weight where right and where wrong.

    Teachers without a rationale in the step are absent.
    """
    means: dict[str, dict[str, float]] = {name: {} for name in agreed.metrics}
    means |= {"weight_right": {}, "weight_wrong": {}}
    for teacher, values in agreed.per_teacher.items():
        if not values["count"]:
            continue
        for name in agreed.metrics:
            means[name][teacher] = values[name] / values["count"]
        wrong = values["count"] - values["count_right"]
        if values["count_right"]:
            means["weight_right"][teacher] = values["weight_right"] / values["count_right"]
        if wrong:
            means["weight_wrong"][teacher] = (values["weight"] - values["weight_right"]) / wrong
    return means


def right_share(agreed: Agreed) -> float:
    """Share of the step's weight that lies on right rationales."""
    right = sum(row["weight_right"] for row in agreed.per_teacher.values())
    return right / agreed.examples if agreed.examples else 0.0
