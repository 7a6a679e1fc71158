"""The same training without trees: one row a rationale, one a probe, in plain transformers and torch.

Owns the naive way at its best: rows sorted by length and padded to the longest of a micro-batch, causal attention without a
mask, probes without a gradient and before the rationales, only rows with a target in our own head.

Legend: S sequences of a micro-batch, L tokens, N rows of the head, R rationales of a micro-batch.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compact_ds.compatibility.metrics import metrics
from compact_ds.compatibility.running import RunningScales
from compact_ds.engine.start import learning_rate
from compact_ds.methods.added_metrics import with_added
from compact_ds.methods.evidence import Evidence
from compact_ds.methods.method import method
from compact_ds.sections import Config
from compact_ds.student import head
from compact_ds.tree.build import probed_steps
from compact_ds.tree.tokenise import Ints, Record


@dataclass(frozen=True, slots=True)
class _Row:
    """A sequence of which the last `scored` tokens are predicted; the last one need not pass through the model."""

    ids: Ints
    scored: int


class Rows:
    """`compact` with probes (`max_probes` a rationale and one a question), or uniform weights without any (0)."""

    def __init__(self, name: str, config: Config, lm: Any, records: Sequence[Record], max_probes: int) -> None:
        """`lm` is copied; `records` are the questions of every lap, with all their rationales."""
        self.name, self._config = name, config
        self._lm = copy.deepcopy(lm)
        self._base = self._lm.get_base_model() if hasattr(self._lm, "peft_config") else self._lm
        head.install(self._base, config.kernels)
        self._records = sorted(records, key=lambda r: -max(len(one.ids) for one in r.rationales))
        self._max_probes = max_probes
        self._method = method("compact" if max_probes else "uniform")
        self._settings = self._method.settings(config.compatibility)
        self._scales = RunningScales(config.compatibility.decay, num_added=len(self._settings.added))
        settings = config.optimizer
        trained = [p for p in self._lm.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(
            trained, lr=settings.lr, betas=settings.betas, eps=settings.eps, weight_decay=settings.weight_decay
        )
        self._trained, self._lap = trained, 0
        self.tokens, self.padded, self.setting = 0, 0, ""

    def lap(self) -> float:
        """Probes, then rationales with their backward passes, then the update."""
        self.tokens = self.padded = passes = first = 0
        gold = self._gold()
        total, loss = torch.zeros(self._scales.size, dtype=torch.float64), 0.0
        for own in self._whole_examples():
            passes += 1
            rows = [_rationale(r, i) for r in own for i in range(len(r.rationales))]
            loss_R = self._means(rows)
            example_R = torch.tensor([e for e, r in enumerate(own) for _ in r.rationales])
            teacher_R = torch.tensor([one.teacher for r in own for one in r.rationales])
            consensus_R = torch.tensor([one.consensus for r in own for one in r.rationales])
            gains = _gains(first, own, gold, self._max_probes) if gold else None
            first += len(own)
            metrics_MR = metrics(consensus_R, loss_R, gains, self._scales, self._settings)
            tokens_R = torch.tensor([row.scored for row in rows])
            evidence = Evidence(metrics_MR, loss_R.detach(), tokens_R, None, example_R, teacher_R, len(own))
            evidence = with_added(evidence, self._settings.added)
            weight_R = self._method.weigh(evidence, self._scales, self._settings, self._config.compatibility.warmup)
            total += self._scales.contribution(evidence.metrics_MR, loss_R.detach(), example_R, len(own))
            share = (weight_R * loss_R).sum() / len(self._records)
            share.backward()
            loss += float(share.detach())
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self._config.optimizer, self._lap, self._config.max_steps)
        torch.nn.utils.clip_grad_norm_(self._trained, self._config.optimizer.grad_clip or float("inf"))
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._scales.update(total)
        self._lap += 1
        self.setting = f"{passes} micro-batches of rationales, {len(gold)} probes in rows of their own"
        return loss

    def close(self) -> None:
        """Nothing runs beside."""

    @torch.no_grad()
    def _gold(self) -> dict[tuple[int, int, int], float]:
        """Gold log-likelihood of every probe by (record, rationale, step); (record, -1, 0) is the question's own."""
        places, rows = [], []
        for e, record in enumerate(self._records if self._max_probes else ()):
            places.append((e, -1, 0))
            rows.append(_probe(record, record.probe_ids[:0]))
            for r, one in enumerate(record.rationales):
                for step in probed_steps(len(one.step_ends), self._max_probes):
                    places.append((e, r, step))
                    rows.append(_probe(record, one.ids[: one.step_ends[step - 1]]))
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i].ids))
        found: dict[tuple[int, int, int], float] = {}
        while order:
            size = max(1, self._budget // (len(rows[order[0]].ids) - 1))
            now, order = order[:size], order[size:]
            found |= zip((places[i] for i in now), (-self._means([rows[i] for i in now])).tolist(), strict=True)
        return found

    @property
    def _budget(self) -> int:
        return self._config.tree.row_tokens * self._config.tree.rows

    def _whole_examples(self) -> Iterator[list[Record]]:
        """Records in micro-batches whose padded rows keep the budget, an example never cut."""
        own: list[Record] = []
        for record in self._records:
            rows = [_rationale(r, i) for r in (*own, record) for i in range(len(r.rationales))]
            if own and len(rows) * (max(len(row.ids) for row in rows) - 1) > self._budget:
                yield own
                own = []
            own.append(record)
        yield own

    def _means(self, rows: list[_Row]) -> Tensor:
        """Mean negative log-likelihood of every row's last tokens, nats per token, [S]."""
        length = max(len(row.ids) for row in rows) - 1
        ids_SL = np.zeros((len(rows), length), dtype=np.int64)
        for s, row in enumerate(rows):
            ids_SL[s, : len(row.ids) - 1] = row.ids[:-1]
        self.tokens += sum(len(row.ids) - 1 for row in rows)
        self.padded += ids_SL.size
        hidden_SLD = self._base.get_decoder()(input_ids=torch.from_numpy(ids_SL), use_cache=False).last_hidden_state
        index = [s * length + np.arange(len(row.ids) - 1 - row.scored, len(row.ids) - 1) for s, row in enumerate(rows)]
        target_N = torch.from_numpy(np.concatenate([row.ids[-row.scored :] for row in rows]).astype(np.int64))
        hidden_ND = hidden_SLD.flatten(0, 1)[torch.from_numpy(np.concatenate(index))]
        lse_N, z_N1 = self._base.get_output_embeddings()(hidden_ND, target_N[:, None])
        return torch.stack([part.mean() for part in (lse_N - z_N1[:, 0]).split([row.scored for row in rows])])


def _rationale(record: Record, r: int) -> _Row:
    ids = record.rationales[r].ids
    return _Row(np.concatenate((record.prompt_ids, ids)), len(ids))


def _probe(record: Record, prefix: Ints) -> _Row:
    return _Row(np.concatenate((record.prompt_ids, prefix, record.probe_ids)), record.answer_tokens)


def _gains(
    first: int, own: list[Record], gold: dict[tuple[int, int, int], float], max_probes: int
) -> tuple[Tensor, Tensor]:
    """Total gain and largest jump of every rationale, nats per answer token; `first` is the place of the first record."""
    total, jump = [], []
    for e, record in enumerate(own, start=first):
        for r, one in enumerate(record.rationales):
            levels = [gold[e, -1, 0], *(gold[e, r, step] for step in probed_steps(len(one.step_ends), max_probes))]
            total.append(levels[-1] - levels[0])
            jump.append(max(np.diff(levels), default=0.0))
    return torch.tensor(total), torch.tensor(jump)
