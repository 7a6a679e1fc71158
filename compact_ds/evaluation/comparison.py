"""Results of runs, side by side: mean and spread per method, and what the figures say for or against the metrics.

Owns the arithmetic and the wording of a comparison. Starts no run and prints nothing.
"""

from __future__ import annotations

import csv
import io
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

METRICS = ("consensus", "adaptability", "difficulty")
COLUMNS = ("method", "seeds", "accuracy", "answer loss after steps", "weight on right", "seconds")


@dataclass(frozen=True)
class Row:
    """One method over its seeds. `spread` is the sample standard deviation of the accuracy, 0 for a single seed.

    `answer_loss` is in nats per token of the gold answer, after right steps; `right_share` is the share of
    weight on right rationales.
    A figure that the runs did not give is None.
    """

    method: str
    num_seeds: int
    accuracy: float | None
    spread: float
    answer_loss: float | None
    right_share: float | None
    seconds: float | None
    interval: tuple[float, float] | None = None
    """95 % interval of the accuracy over questions."""
    drops: Mapping[str, float] = field(default_factory=dict)
    """What was lost on each retention file: accuracy, or nats per token of text."""

    def cells(self) -> tuple[str, ...]:
        """The row as texts, in the order of COLUMNS."""
        accuracy = _shown(self.accuracy, 3) + (f" ± {self.spread:.3f}" if self.num_seeds > 1 else "")
        figures = (_shown(self.answer_loss, 3), _shown(self.right_share, 3), _shown(self.seconds, 0))
        return (self.method, str(self.num_seeds), accuracy, *figures)


def rows(
    results: Sequence[Mapping[str, Any]],
    intervals: Mapping[str, tuple[float, float]] | None = None,
    drops: Mapping[str, Mapping[str, float]] | None = None,
) -> list[Row]:
    """One row per method, in the order in which the methods first appear."""
    methods = list(dict.fromkeys(result["method"] for result in results))
    table = [_row(method, [result for result in results if result["method"] == method]) for method in methods]
    return [
        replace(row, interval=(intervals or {}).get(row.method), drops=(drops or {}).get(row.method, {}))
        for row in table
    ]


def full_table(table: Sequence[Row]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and cells; intervals and drops have columns where any method has them."""
    names = list(dict.fromkeys(name for row in table for name in row.drops))
    has_intervals = any(row.interval is not None for row in table)
    header = (*COLUMNS, *(["95 % interval"] if has_intervals else []), *(f"drop {name}" for name in names))
    lines = []
    for row in table:
        shown = (
            [] if not has_intervals else ["-"] if row.interval is None else ["{:.3f} to {:.3f}".format(*row.interval)]
        )
        lines.append((*row.cells(), *shown, *(_shown(row.drops.get(name), 3) for name in names)))
    return header, lines


def findings(table: Sequence[Row]) -> list[str]:
    """Sentences: where a metric hurts, and how compact stands to uniform and to the best single teacher.

    A difference counts when it is larger than the spread of both methods together (root of the summed squares); with
    one seed there is no spread, and the sentence says so.
    """
    known = {row.method: row for row in table if row.accuracy is not None}
    compact, uniform = known.get("compact"), known.get("uniform")
    found = []
    if uniform is not None:
        for metric in METRICS:
            if metric in known and _is_below(known[metric], uniform):
                found.append(f"{metric} alone hurts: {_against(known[metric], uniform)}")
    if compact is not None:
        for name in METRICS:
            if name in known and _is_below(compact, known[name]):
                found.append(f"another metric hurts {name}: {_against(compact, known[name])}")
        single = max((r for r in known.values() if r.method.startswith("single:")), key=_accuracy, default=None)
        for other in (uniform, single):
            if other is not None:
                verdict = (
                    "below" if _is_below(compact, other) else "above" if _is_below(other, compact) else "level with"
                )
                found.append(f"compact is {verdict} {other.method}: {_against(compact, other)}")
    if any(name in known for name in METRICS) and not any("hurts" in line for line in found):
        found.append("no metric hurts")
    return found


def markdown(table: Sequence[Row], sentences: Sequence[str], command: str) -> str:
    """The comparison as a page: the command, the table, the findings."""
    header, cells = full_table(table)
    lines = ["# Comparison", "", f"`{command}`", "", _line(header), _line(["---"] * len(header))]
    lines += [_line(own) for own in cells]
    lines += ["", *(f"- {sentence}" for sentence in sentences)]
    return "\n".join(lines) + "\n"


def latex(table: Sequence[Row]) -> str:
    """The table alone, as a LaTeX `tabular` (package booktabs)."""
    header, cells = full_table(table)
    lines = [r"\begin{tabular}{l" + "r" * (len(header) - 1) + "}", r"\toprule", _latex_line(header), r"\midrule"]
    return "\n".join([*lines, *map(_latex_line, cells), r"\bottomrule", r"\end{tabular}"]) + "\n"


def as_csv(table: Sequence[Row]) -> str:
    """The table with its figures unrounded, one line a method."""
    names = list(dict.fromkeys(name for row in table for name in row.drops))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    figures = ("accuracy", "spread", "answer_loss", "right_share", "seconds")
    writer.writerow(["method", "num_seeds", *figures, "low", "high", *(f"drop {name}" for name in names)])
    for row in table:
        low, high = row.interval or (None, None)
        own = [row.method, row.num_seeds, *(getattr(row, name) for name in figures)]
        writer.writerow([*own, low, high, *(row.drops.get(name) for name in names)])
    return out.getvalue()


def _latex_line(cells: Iterable[str]) -> str:
    escaped = (re.sub(r"([#$%&_{}])", r"\\\1", cell.replace("\\", "/")) for cell in cells)
    return " & ".join(cell.replace("±", r"$\pm$") for cell in escaped) + r" \\"


def _row(method: str, results: Sequence[Mapping[str, Any]]) -> Row:
    accuracies = _numbers(results, "accuracy")
    spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
    means = {key: _mean(_numbers(results, key)) for key in ("answer_loss_after_steps", "right_share", "train_seconds")}
    return Row(
        method=method,
        num_seeds=len(results),
        accuracy=_mean(accuracies),
        spread=spread,
        answer_loss=means["answer_loss_after_steps"],
        right_share=means["right_share"],
        seconds=means["train_seconds"],
    )


def _numbers(results: Iterable[Mapping[str, Any]], key: str) -> list[float]:
    return [float(result[key]) for result in results if result.get(key) is not None]


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _accuracy(row: Row) -> float:
    assert row.accuracy is not None
    return row.accuracy


def _is_below(row: Row, other: Row) -> bool:
    return _accuracy(other) - _accuracy(row) > math.hypot(row.spread, other.spread)


def _against(row: Row, other: Row) -> str:
    has_spread = min(row.num_seeds, other.num_seeds) > 1
    noise = f"spread {math.hypot(row.spread, other.spread):.3f}" if has_spread else "one seed, no spread"
    return f"accuracy {_accuracy(row):.3f} for {row.method}, {_accuracy(other):.3f} for {other.method} ({noise})"


def _shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
