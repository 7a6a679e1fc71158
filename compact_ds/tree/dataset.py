"""The training set as the loop sees it: records that fit the token budget, and a list of what does not.

Owns the budget. What is left out is known before the first step, from lengths alone, and never cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compact_ds.errors import DataError
from compact_ds.sections import TreeConfig
from compact_ds.tree.cache import RecordFile
from compact_ds.tree.tokenise import Record


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A rationale that no row can hold: where its example stands, which one it is, tokens needed and allowed."""

    where: str
    id: str
    index: int
    teacher: str
    needs_tokens: int
    row_tokens: int


class TreeDataset:
    """Records of a cache file under a token budget; example i is `record(i)` with the rationales `fits(i)`.

    `content` is a hash of what can be learnt from them: equal for equal examples, wherever the file lay.
    """

    def __init__(self, file: Path, tree: TreeConfig) -> None:
        self._records = RecordFile(file)
        self.teachers, self.content = self._records.teachers, self._records.content
        lengths = self._records.column("length").combine_chunks()
        self._offsets = lengths.offsets.to_numpy()
        self._teacher = self.flat("teacher")
        self._needs = self._smallest_rows(tree, lengths.flatten().to_numpy())
        self._fits = self._needs <= tree.row_tokens
        self._row_tokens = tree.row_tokens

    def __len__(self) -> int:
        return len(self._records)

    @property
    def num_rationales(self) -> int:
        """Rationales of the file, those that do not fit included."""
        return len(self._needs)

    @property
    def has_verdicts(self) -> bool:
        """Whether any rationale carries the file's verdict."""
        return bool((self.flat("verdict") >= 0).any())

    def record(self, index: int) -> Record:
        """Record number `index`."""
        return self._records.record(index)

    def fits(self, index: int) -> list[int]:
        """Which rationales of example `index` fit a row."""
        flags = self._fits[self._offsets[index] : self._offsets[index + 1]]
        return [int(r) for r in np.flatnonzero(flags)]

    def flat(self, name: str) -> np.ndarray:
        """A column of labels with an entry for every rationale of the file, in its order."""
        return np.array(self._records.column(name).combine_chunks().flatten().to_numpy())

    def examples_with(self, rationales: np.ndarray) -> np.ndarray:
        """Indices of the examples that have one of these rationales (flags in file order) in a row, in order."""
        before = np.concatenate(([0], np.cumsum(rationales & self._fits)))
        return np.flatnonzero(np.diff(before[self._offsets]))

    def left_out(self) -> list[LeftOut]:
        """What does not fit, in file order."""
        rows = []
        for flat in np.flatnonzero(~self._fits):
            example = int(np.searchsorted(self._offsets, flat, side="right")) - 1
            record = self.record(example)
            teacher = self.teachers[self._teacher[flat]]
            index = int(flat - self._offsets[example])
            rows.append(LeftOut(record.where, record.id, index, teacher, int(self._needs[flat]), self._row_tokens))
        return rows

    def refuse_if_too_many(self, left_out: list[LeftOut], largest_share: float) -> None:
        """Raises DataError, naming the first, when the left-out share of rationales exceeds `largest_share`."""
        if len(left_out) > largest_share * self.num_rationales:
            first = left_out[0]
            raise DataError(
                first.where,
                f"a rationale of {first.teacher} that needs {first.needs_tokens} tokens with its question and probes"
                f" ({len(left_out)} of {self.num_rationales} rationales do not fit)",
                f"at most tree.row_tokens={first.row_tokens} and a share of data.max_left_out={largest_share}",
                "raise tree.row_tokens, lower tree.max_probes or allow a larger share",
            )

    def _smallest_rows(self, tree: TreeConfig, length: np.ndarray) -> np.ndarray:
        """Tokens of the shortest row for every rationale; the question's own probe may have to share the row with any.

        The counts of `build`: a last token that predicts nothing is not there.
        """
        of_example = np.repeat(np.arange(len(self)), np.diff(self._offsets))
        prompt = self._records.lengths("prompt_ids")[of_example]
        probe = self._records.lengths("probe_ids")[of_example] - 1
        num_steps, ends = self.flat("num_steps"), self.flat("step_ends")
        last = np.cumsum(num_steps) - 1
        prefix = np.where(num_steps > 0, ends[last] if len(ends) else 0, 0)
        if tree.layout == "tree":
            branch = np.maximum(length - 1, prefix)
            return np.asarray(prompt + branch + (1 + np.minimum(num_steps, tree.max_probes)) * probe)
        return np.asarray(prompt + np.maximum(length - 1, prefix + probe))
