"""The study's first part: accuracy against the dose of misleading teachers, a curve for each method, from finished runs.

    python tests/measure_study.py run ROOT [METHODS [SEEDS [TASKS]]]   trains what is missing; go on with the same command
    python tests/measure_study.py show ROOT OUTPUT                     OUTPUT.md, OUTPUT.json and OUTPUT.png of what is there

Methods, and tasks as `misled_2`, with commas between them. Runs lie in ROOT/TASK/METHOD/seed-N. Intervals are those of a mean
over seeds by Student's t, with the spread pooled over methods and doses: three seeds alone say little about a spread.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from scipy import stats

TASKS = ("misled_0", "misled_1", "misled_2", "misled_3", "colluding_2", "colluding_3")
METHODS = (
    "single:joe", "union", "uniform", "majority", "confidence", "rsr", "mot", "verified", "compact",
    "compact_without_consensus", "compact_without_adaptability", "compact_without_difficulty",
)  # fmt: skip
Scores = dict[tuple[str, str], dict[int, dict[str, float]]]


def run(root: Path, methods: str, seeds: str, tasks: str) -> int:
    for task in tasks.split(","):
        name = f"task:arithmetic_{task}"
        words = ["compare", "configs/study_dose.yaml", "--methods", methods, "--seeds", seeds, "--jobs", "2"]
        settings = [f"run_dir={root / task}", f"data.train={name}", f"student.tokenizer={name}", "mixer.merge_every=25"]
        code = subprocess.call([sys.executable, "-m", "compact_ds.cli", *words, *settings])
        if code:
            return code
    return 0


def scores(root: Path) -> Scores:
    """Accuracy and share of weight on right rationales by (task, method) and seed."""
    found: Scores = defaultdict(dict)
    for file in sorted(root.glob("*/*/seed-*/summary.json")):
        summary = json.loads(file.read_text(encoding="utf-8"))
        figures = {key: summary[key] for key in ("accuracy", "right_share", "train_seconds")}
        found[file.parts[-4], summary["method"]][summary["seed"]] = figures
    return found


def pooled_spread(found: Scores) -> tuple[float, int]:
    """Standard deviation of an accuracy over seeds, pooled, and its degrees of freedom."""
    groups = [[f["accuracy"] for f in seeds.values()] for seeds in found.values() if len(seeds) > 1]
    freedom = sum(len(group) - 1 for group in groups)
    squares = sum((len(group) - 1) * statistics.variance(group) for group in groups)
    return (squares / freedom) ** 0.5 if freedom else float("nan"), freedom


def table(found: Scores) -> str:
    spread, freedom = pooled_spread(found)
    tasks = [task for task in TASKS if any(key[0] == task for key in found)]
    methods = [method for method in METHODS if any(key[1] == method for key in found)]
    lines = ["| method | " + " | ".join(tasks) + " |", "|---" * (len(tasks) + 1) + "|"]
    for method in methods:
        cells = [_cell(found.get((task, method), {}), spread, freedom) for task in tasks]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    lines += ["", f"Pooled standard deviation of an accuracy over seeds: {spread:.3f} ({freedom} degrees of freedom)."]
    return "\n".join([*lines, *_gaps(found, tasks)]) + "\n"


def _cell(seeds: Mapping[int, Mapping[str, float]], spread: float, freedom: int) -> str:
    if not seeds:
        return "-"
    mean, half = _mean(seeds), half_width(len(seeds), spread, freedom)
    weight = statistics.fmean(f["right_share"] for f in seeds.values())
    return f"{mean:.3f} ± {half:.3f} (n={len(seeds)}, weight {weight:.2f})"


def half_width(num_seeds: int, spread: float, freedom: int) -> float:
    return float(stats.t.ppf(0.975, freedom)) * spread / num_seeds**0.5 if freedom else float("nan")


def _gaps(found: Scores, tasks: list[str]) -> list[str]:
    """How much of the way from uniform to the oracle compact goes, on the same seeds."""
    lines = []
    for task in tasks:
        three = [found.get((task, method), {}) for method in ("uniform", "compact", "verified")]
        seeds = sorted(set.intersection(*(set(one) for one in three)))
        if seeds:
            low, ours, high = (statistics.fmean(one[s]["accuracy"] for s in seeds) for one in three)
            share = f"{(ours - low) / (high - low):.0%} of the way" if high - low > 0.02 else "no gap to close"
            lines.append(
                f"- {task}: uniform {low:.3f}, compact {ours:.3f}, verified {high:.3f}: {share} ({len(seeds)} seeds)."
            )
    return ["", *lines]


def draw(found: Scores, file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    spread, freedom = pooled_spread(found)
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    doses = [task for task in TASKS if task.startswith("misled")]
    axes.set_prop_cycle(color=plt.get_cmap("tab20")(range(20)))
    for place, method in enumerate(METHODS):
        points = [(int(task[-1]), found[task, method]) for task in doses if found.get((task, method))]
        if points:
            heights = [_mean(seeds) for _, seeds in points]
            bars = [half_width(len(seeds), spread, freedom) for _, seeds in points]
            line = "-" if method in ("compact", "uniform", "verified") else "--"
            # Side by side, so that none hides another.
            beside = [m + 0.025 * (place - len(METHODS) / 2) for m, _ in points]
            axes.errorbar(beside, heights, bars, linestyle=line, marker="o", capsize=3, label=method)
    axes.set(xlabel="misleading teachers of four", ylabel="greedy accuracy", xticks=range(4), ylim=(0, 1))
    figure.legend(fontsize=7, loc="outside right upper")
    figure.savefig(file, dpi=110)


def _mean(seeds: Mapping[int, Mapping[str, float]]) -> float:
    return statistics.fmean(f["accuracy"] for f in seeds.values())


if __name__ == "__main__":
    job, root, *rest = sys.argv[1:]
    if job == "run":
        given = dict(enumerate(rest))
        sys.exit(run(Path(root), given.get(0, ",".join(METHODS)), given.get(1, "3"), given.get(2, ",".join(TASKS))))
    results, output = scores(Path(root)), Path(rest[0])
    rows = [{"task": t, "method": m, "seed": s, **f} for (t, m), seeds in results.items() for s, f in seeds.items()]
    output.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    output.with_suffix(".md").write_text(table(results), encoding="utf-8")
    draw(results, output.with_suffix(".png"))
