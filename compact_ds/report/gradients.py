"""How the teachers' gradients stand to one another: the mixer's diagnostics of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compact_ds.report.blocks import Block, Section, by_run, chart, table
from compact_ds.report.charts import binned, colours, extended, heat, lines
from compact_ds.report.run_folder import Row, Run

_PAIR = " | "
_MOST_PAIRS = 10
_PER_TEACHER = {
    "update_share": ("Part in the update", "share"),
    "gradient_norm": ("Gradient of the weighted loss", "norm"),
    "reference_loss": ("Loss of the reference batches", "nats a token"),
    "answer_agreement": ("With the gradient of held-out gold answers", "cosine"),
}


def gradients(runs: Sequence[Run], colour: Mapping[str, str]) -> Section:
    """A matrix of cosines, then the instruments over time, a column a run; a sentence when no run was diagnosed."""
    found = [(run.name, blocks) for run in runs if (blocks := _of_run(run, colour))]
    if not found:
        every = runs[0].config.get("mixer", {}).get("diagnose_every", 0)
        note = f"Not measured in {len(runs[0].steps)} steps: they are looked at every mixer.diagnose_every={every}."
        return Section("gradients", "Gradients", note, [])
    note = (
        "Measured every mixer.diagnose_every steps. A negative cosine is a conflict: a step that helps one teacher's texts "
        "hurts the other's. A share above the weight means that the others pull the same way."
    )
    return Section("gradients", "Gradients", note, [by_run(found, len(runs))])


def _of_run(run: Run, colour: Mapping[str, str]) -> list[Block]:
    measured = [row for row in run.steps if row.get("gradient_cosine")]
    if not measured:
        return []
    pairs = list(dict.fromkeys(pair for row in measured for pair in row["gradient_cosine"]))
    when = f", mean over {len(measured)} steps" if len(measured) > 1 else f" at step {measured[0]['step']}"
    blocks = [chart(f"Cosines{when}", _matrix(run, pairs))]
    if len(measured) > 1 and len(pairs) <= _MOST_PAIRS:
        points = [p for pair in pairs for p in binned(pair, _values(run, "gradient_cosine", pair))]
        blocks.append(chart("Cosines over time", lines(points, "cosine", colours(pairs), level=0, is_sparse=True)))
    if len(measured) == 1:
        return [*blocks, _once(measured[0])]
    for key, (title, unit) in _PER_TEACHER.items():
        names = sorted({name for row in run.steps for name in row.get(key, {})})
        rows = [p for name in names for p in binned(name, _values(run, key, name))]
        if rows:
            blocks.append(
                chart(f"{title}, {unit}", lines(rows, unit, extended(colour, names), height=130, is_sparse=True))
            )
    return blocks


def _once(row: Row) -> Block:
    """What a single measurement found: curves of one point say less than a table."""
    keys = [key for key in _PER_TEACHER if row.get(key)]
    names = list(dict.fromkeys(name for key in keys for name in sorted(row[key])))
    head = [f"at step {row['step']}", *(", ".join(_PER_TEACHER[key]).casefold() for key in keys)]
    return table("", head, [[name, *(row[key].get(name) for key in keys)] for name in names])


def _values(run: Run, key: str, name: str) -> list[tuple[int, float | None]]:
    return [(row["step"], row[key].get(name)) for row in run.steps if row.get(key)]


def _matrix(run: Run, pairs: Sequence[str]) -> dict[str, object]:
    means: dict[tuple[str, str], float] = {}
    names = _names(run, pairs)
    for pair in pairs:
        found = [v for _, v in _values(run, "gradient_cosine", pair) if v is not None]
        for a in names:
            for b in names:
                if pair == f"{a}{_PAIR}{b}":
                    means[a, b] = means[b, a] = sum(found) / len(found)
    rows = [
        {"y": a, "x": b, "value": means[a, b], "label": f"{round(means[a, b], 2) + 0.0:+.2f}"}
        for a in names
        for b in names
        if (a, b) in means
    ]
    tooltip = [("y", "of"), ("x", "with"), ("value", "cosine")]
    return heat(rows, names, names, domain=(-1, 1), scheme="redblue", tooltip=tooltip)


def _names(run: Run, pairs: Sequence[str]) -> list[str]:
    """Who is in the pairs: the diagnostics name norms by teacher, and a name may hold the pair's sign itself."""
    norms = {name for row in run.steps for name in row.get("gradient_norm", {})}
    return sorted(norms or {name for pair in pairs for name in pair.split(_PAIR)})
