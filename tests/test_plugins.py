"""A metric, a solver and a method from a module outside the package, by value; and what is refused.

Runs name the module in `extensions`; it lies beside this file.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from compact_ds.api import load_examples, save_examples
from compact_ds.cli import main
from compact_ds.compare import Survey, expand, split_solver
from compact_ds.compatibility.running import RunningScales
from compact_ds.config import load
from compact_ds.errors import ConfigError
from compact_ds.methods.added_metrics import with_added
from compact_ds.methods.evidence import Evidence
from compact_ds.methods.method import Method, add_method, method
from compact_ds.mixer.surgery import add_solver, coefficients

OURS = "extensions=[length_extension]"
TOKENS = [10.0, 30.0, 20.0, 20.0, 5.0]
EXAMPLES = [0, 0, 1, 1, 1]


def evidence() -> Evidence:
    metrics_MR = torch.zeros(3, 5, dtype=torch.float64)
    places = (torch.tensor(EXAMPLES), torch.tensor([0, 1, 0, 1, 2]), 2)
    return Evidence(metrics_MR, torch.ones(5), torch.tensor(TOKENS), None, *places)


def shares(values: Sequence[float]) -> list[float]:
    return [
        v / sum(w for w, f in zip(values, EXAMPLES, strict=True) if f == e)
        for v, e in zip(values, EXAMPLES, strict=True)
    ]


def test_a_method_that_weighs_by_length() -> None:
    config = load("arithmetic", [OURS, "method=by_length"])
    found = method(config.method)
    weight_R = found.weigh(evidence(), RunningScales(0.9), found.settings(config.compatibility), 0)
    assert weight_R.tolist() == pytest.approx([3 / 4, 1 / 4, 1 / 6, 1 / 6, 4 / 6])
    assert expand(["by_length"], lambda: cast(Survey, None)) == ["by_length"]


def test_a_length_penalty_joins_the_sum() -> None:
    config = load("arithmetic", [OURS, "compatibility.added={length: -0.6}", "compatibility.tau=0.3"])
    own, seen = config.compatibility, with_added(evidence(), config.compatibility.added)
    assert seen.metrics_MR.tolist() == [[0.0] * 5] * 3 + [[1.0, 3.0, 2.0, 2.0, 0.5]]
    scales, late = RunningScales(0.9, num_added=1), own.warmup
    scales.update(scales.contribution(seen.metrics_MR, seen.token_loss_R, seen.example_R, 2))
    # Deviations 1, -1 and 0.5, 0.5, -1 with 1 and 2 degrees of freedom.
    scale = math.sqrt((1 + 1 + 0.25 + 0.25 + 1) / 3)
    assert scales.scale_M.tolist() == pytest.approx([0, 0, 0, scale])
    weight_R = method("compact").weigh(seen, scales, own, late)
    # The three metrics have no spread: softmax of -0.6 * tokens / 10 / scale / 0.3.
    assert weight_R.tolist() == pytest.approx(shares([math.exp(-0.2 * tokens / scale) for tokens in TOKENS]), rel=1e-5)
    assert method("compact").weigh(seen, scales, own, late - 1).tolist() == pytest.approx(shares([1.0] * 5))
    for name in ("uniform", "adaptability"):
        settings = method(name).settings(own)
        assert method(name).weigh(seen, scales, settings, late).tolist() == pytest.approx(shares([1.0] * 5))


def test_a_solver_that_takes_the_mean() -> None:
    config = load("arithmetic", [OURS, "mixer.mode=gradient", "mixer.solver=plain_mean"])
    gram = np.array([[4.0, -1.0], [-1.0, 9.0]])
    found = coefficients(config.mixer.solver, gram, draw=np.random.default_rng(0), radius=0.4)
    assert found.tolist() == [0.5, 0.5]
    assert split_solver("compact+plain_mean") == ("compact", "plain_mean")


def test_scores_see_an_added_metric(tmp_path: Path) -> None:
    """The command imports the module; a ratio of weights changes by the penalty that the lengths give."""
    asked = load_examples("task:arithmetic", limit=4)
    # Two, one and three steps.
    uneven = [
        replace(
            one,
            rationales=tuple(
                replace(r, steps=(r.steps * 3)[:n]) for r, n in zip(one.rationales, (2, 1, 3), strict=True)
            ),
        )
        for one in asked
    ]
    source = save_examples(uneven, tmp_path / "uneven.jsonl")
    words = ["score", str(source), "--student", "scratch", f"data.cache_dir={tmp_path}", "--json"]
    words += ["student.tokenizer=task:arithmetic", "student.scratch={hidden_size: 16, num_hidden_layers: 1}", OURS]
    rows = []
    for name, penalty in (("plain", 0.0), ("short", -0.5)):
        file = tmp_path / f"{name}.jsonl"
        given = f"compatibility.added={{length: {penalty}}}"
        assert main([*words, given, "--output", str(file)]) == 0
        rows.append([json.loads(line) for line in file.read_text().splitlines()])
    plain, short = rows
    # Words and the end of text, a token each.
    lengths = [len(r.text.split()) + 1 for r in uneven[0].rationales]
    assert len(set(lengths)) == 3
    assert [row["length"] for row in short[:3]] == [length / 10 for length in lengths]
    # All four questions are alike: the spread of one is the spread of all.
    scale = statistics.stdev(length / 10 for length in lengths)
    for first, second in ((0, 1), (1, 2)):
        before, after = (math.log(r[first]["weight"] / r[second]["weight"]) for r in (plain, short))
        assert after - before == pytest.approx(-0.5 / 0.3 * (lengths[first] - lengths[second]) / 10 / scale, abs=1e-4)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["extensions=[no_such_module]"], "extensions: found no_such_module; expected a module that Python finds"),
        ([OURS, "method=by_lenght"], "method: found by_lenght; expected a method; did you mean 'by_length'"),
        ([OURS, "mixer.mode=gradient", "mixer.solver=plane_mean"], "mixer.solver: .* did you mean 'plain_mean'"),
        ([OURS, "compatibility.added={lenght: 1}"], "compatibility.added: found lenght; .* did you mean 'length'"),
    ],
)
def test_unknown_names_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load("arithmetic", overrides)


def test_names_that_are_taken_are_refused() -> None:
    with pytest.raises(ConfigError, match="method: found uniform; expected a name"):
        add_method(Method("uniform"))
    with pytest.raises(ConfigError, match="solver: found nash; expected a name"):
        add_solver("nash", lambda gram_KK, draw, radius: gram_KK[0])
    with pytest.raises(ConfigError, match=r"solver: found a\+b; expected a name of letters"):
        add_solver("a+b", lambda gram_KK, draw, radius: gram_KK[0])
